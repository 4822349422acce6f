"""Reads the labels of samples: classes, masks of classes, or boxes."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np

from deployfold.errors import UsageError, first_few
from deployfold.util.arrays import Array

from .arrays import SUFFIXES, open_arrays
from .boxes import Boxes, coco_labels, is_coco
from .masks import mask_labels
from .samples import SampleSource, sample_digest

Label: TypeAlias = int | Array | Boxes
"""The truth of one sample: a class, a mask of classes (height, width), or boxes."""

_FORMATS = (
    "Give a CSV or TSV file of «filename,label», a file with one integer per line in the order of "
    "the samples, JSON of either, an .npy of integers, or the image folder for class folders; for "
    "masks a folder of PNGs or an .npy of (samples, height, width), for boxes COCO's JSON."
)
_INTEGER = re.compile(r"\d{1,9}", re.ASCII)
_SHOWN = 3


def load_labels(
    path: Path, source: SampleSource, *, folder: Path | None
) -> tuple[tuple[Label, ...], tuple[str, ...]]:
    """Read the label of every sample.

    Args:
        path: one of these: a file of classes, see :func:`read_labels`; an ``.npy`` or ``.npz`` of
            integers with one mask a sample; a JSON file in COCO's format; ``folder`` itself, whose
            subfolders are then the classes, numbered in the order of their names as in
            torchvision's ImageFolder; or another folder, of masks.
        folder: the folder of the images; ``None`` for other samples.

    Returns:
        The labels in the order of the samples, and notes for the report.

    Raises:
        UsageError: the labels cannot be read, or do not match the samples.
    """
    files = source.files
    if path.is_dir():
        if folder is None or files is None or source.preprocess is None:
            raise UsageError(
                f"The labels {path} are a folder, but the samples are not images.", hint=_FORMATS
            )
        if path.resolve() == folder.resolve():
            return _class_folders(folder, files)
        return mask_labels(path, files=files, preprocess=source.preprocess), ()
    labels = read_labels(path)
    if is_coco(labels):
        if folder is None or files is None or source.preprocess is None:
            raise UsageError(
                f"The labels {path} are boxes by file name, but the samples are not images.",
                hint="Give the folder of the images.",
            )
        return coco_labels(labels, path, folder=folder, files=files, preprocess=source.preprocess)
    if isinstance(labels, Mapping):
        if files is None:
            raise UsageError(
                f"The labels {path} are given by file name, but the samples are not files.",
                hint="Give one integer per line, in the order of the samples.",
            )
        return _by_name(labels, files, path), ()
    if len(labels) != source.count:
        kind = "samples" if files is None else "images"
        raise UsageError(
            f"{path} has {len(labels)} labels, but there are {source.count} {kind}.", hint=_FORMATS
        )
    return tuple(labels), ()


def label_digest(label: Label) -> int | str:
    """A value for JSON that differs where two labels differ: the class, or a SHA-256."""
    if isinstance(label, int):
        return label
    parts = (
        (label.boxes, label.classes, label.ids, label.ignored)
        if isinstance(label, Boxes)
        else (label,)
    )
    return sample_digest({str(index): part for index, part in enumerate(parts)})


def read_labels(path: Path) -> list[Label] | dict[str, Any]:
    """The labels in a file: arrays for :func:`labels_in`, or text for :func:`parse_labels`.

    Raises:
        UsageError: the file cannot be read, or holds something else.
    """
    if path.suffix in SUFFIXES:
        arrays = open_arrays(path)
        found = arrays.get("labels", next(iter(arrays.values())) if len(arrays) == 1 else None)
        if found is None:
            raise UsageError(f"{path} has no array «labels».", hint=_FORMATS)
        return labels_in(found, str(path))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"The labels {path} are not UTF-8 text.", hint=_FORMATS) from error
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"Cannot read the labels {path}: {reason}.", hint=_FORMATS) from error
    return parse_labels(text, str(path))


def labels_in(array: Array, where: str) -> list[Label]:
    """The labels in an array of integers: classes, or masks if each sample has two axes.

    Raises:
        UsageError: the array holds something else.
    """
    if array.dtype.kind not in "iu":
        raise UsageError(f"The labels {where} are not integers.", hint=_FORMATS)
    if array.ndim == 3:
        return [np.asarray(mask) for mask in array]
    return [_integer(str(value), where) for value in array.reshape(-1).tolist()]


def parse_labels(text: str, where: str) -> list[Label] | dict[str, Any]:
    """The labels in a text: in the order of the samples, or by file name.

    1. A ``.json`` file is a list of integers, an object with integers by file name, or in COCO's
       format, whose content is returned as it is.
    2. In another file, every line is an integer; or every line is a file name, a separator and an
       integer, with an optional heading. The separator is a tab if the first line has one, else a
       comma. Blank lines do not count.

    Labels are below 10⁹.

    Args:
        text: the file's content.
        where: the file's name, for its suffix and for messages.

    Raises:
        UsageError: the text has another form; the message names the line.
    """
    if where.lower().endswith(".json"):
        return _from_json(text, where)
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(number, line) for number, line in lines if line]
    if not lines:
        raise UsageError(f"The labels {where} are empty.", hint=_FORMATS)
    if _INTEGER.fullmatch(lines[0][1]):
        return [_integer(line, f"{where}, line {number}") for number, line in lines]
    return _from_table(text, where, "\t" if "\t" in lines[0][1] else ",")


def _from_json(text: str, where: str) -> list[Label] | dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, where))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not JSON: {error}.", hint=_FORMATS) from error
    if not isinstance(value, (list, dict)):
        raise UsageError(f"{where} holds neither a list nor an object.", hint=_FORMATS)
    if isinstance(value, dict) and is_coco(value):
        return value
    if isinstance(value, list):
        return [_number(item, f"{where}, entry {index}") for index, item in enumerate(value)]
    return {name: _number(item, f"{where}, {name!r}") for name, item in value.items()}


def _from_table(text: str, where: str, delimiter: str) -> dict[str, int]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    pairs: list[tuple[str, int]] = []
    first = True
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            place = f"{where}, line {reader.line_num}"
            if len(cells) != 2:
                raise UsageError(f"{place}: {len(cells)} columns, not two.", hint=_FORMATS)
            if not first or _INTEGER.fullmatch(cells[1]):
                pairs.append((cells[0], _integer(cells[1], place)))
            first = False
    except csv.Error as error:
        raise UsageError(f"{where}, line {reader.line_num}: {error}.", hint=_FORMATS) from error
    return _unique(pairs, where)


def _unique(pairs: Sequence[tuple[str, Any]], where: str) -> dict[str, Any]:
    repeated = [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]
    if repeated:
        raise UsageError(f"{where} has two labels for {repeated[0]!r}.")
    return dict(pairs)


def _integer(text: str, place: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise UsageError(
            f"{place}: {text[:60]!r} is not a label: labels are the model's class numbers.",
            hint=_FORMATS,
        )
    return int(text)


def _number(value: Any, place: str) -> int:
    """A label in JSON; ``repr`` makes strings, booleans and floats fail the integer check."""
    return _integer(repr(value), place)


def _by_name(labels: Mapping[str, int], files: Sequence[str], path: Path) -> tuple[int, ...]:
    """The label of each file by its path below the folder, or by its name if that is unique."""
    bare = Counter(PurePosixPath(file).name for file in files)
    found: list[int | None] = []
    for file in files:
        name = PurePosixPath(file).name
        label = labels.get(file)
        if label is None and bare[name] == 1:
            label = labels.get(name)
        found.append(label)
    missing = [file for file, label in zip(files, found, strict=True) if label is None]
    if missing:
        raise UsageError(
            f"{path} has no label for {first_few(missing, _SHOWN)}.",
            hint="Label every image, by its path below the folder.",
        )
    return tuple(label for label in found if label is not None)


def _class_folders(folder: Path, files: Sequence[str]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    classes = sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )
    outside = [file for file in files if "/" not in file]
    if outside:
        raise UsageError(
            f"{outside[0]} lies outside the class folders of {folder}.",
            hint="Put every image into a folder of its class, or give a file of labels.",
        )
    number = {name: index for index, name in enumerate(classes)}
    note = (
        f"Labels 0 to {len(classes) - 1} are the class folders of {folder.name}/ in the order of "
        "their names; the accuracy is meaningful only if the model has the same classes."
    )
    return tuple(number[file.partition("/")[0]] for file in files), (note,)
