"""Reads labels of boxes: a JSON file in COCO's format, for a folder of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, ValidationError

from deployfold.errors import UsageError, first_few
from deployfold.util.arrays import Array

from .preprocess.steps import Preprocess

_VISIBLE = 0.5
"""A box with a smaller share of its area inside the model's input is ignored, like a crowd."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """The labels of one sample.

    Attributes:
        boxes: (boxes, 4), x1, y1, x2, y2 in pixels of the model's input.
        classes: (boxes), counted from 0 in the order of the categories' ids.
        ids: (boxes), the categories' ids as the file has them.
        ignored: (boxes), whether a detection of the box counts neither as right nor as wrong.
    """

    boxes: Array
    classes: Array
    ids: Array
    ignored: Array


class _Picture(BaseModel):
    id: int | str
    file_name: str
    width: int | None = None
    height: int | None = None


class _Annotation(BaseModel):
    image_id: int | str
    bbox: tuple[float, float, float, float]
    category_id: int
    iscrowd: int = 0


class _Category(BaseModel):
    id: int


class _Coco(BaseModel):
    images: list[_Picture]
    annotations: list[_Annotation]
    categories: list[_Category]


def is_coco(value: Any) -> bool:
    """Whether the content of a JSON file is in COCO's format, sound or not."""
    return isinstance(value, Mapping) and {"images", "annotations"} <= set(value)


def coco_labels(
    value: Any, path: Path, *, folder: Path, files: Sequence[str], preprocess: Preprocess
) -> tuple[tuple[Boxes, ...], tuple[str, ...]]:
    """The boxes of every image, moved as the preprocessing moves its pixels.

    Args:
        value: the content of the JSON file.
        path: the file, for messages.
        files: the images' paths below it; the file may name them by that path or by name.
        preprocess: the steps from an image to the model's input.

    Returns:
        The labels in the order of ``files``, and notes for the report.

    Raises:
        UsageError: the file is damaged, or lacks an image.
    """
    try:
        coco = _Coco.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"{path} is not in COCO's format: {where}: {first['msg']}.",
            hint="Its keys are images, annotations with image_id, bbox and category_id, and "
            "categories.",
        ) from error
    pictures = _by_name(coco.images)
    by_file = {file: own for file in files if (own := _of(pictures, file)) is not None}
    missing = [file for file in files if file not in by_file]
    if missing:
        raise UsageError(
            f"{path} has no entry in its images for {first_few(missing)}.",
            hint="Give the annotations of these images, or move the images away.",
        )
    known = sorted({one.id for one in coco.categories})
    unknown = {one.category_id for one in coco.annotations} - set(known)
    if unknown:
        raise UsageError(f"{path} has no category {min(unknown)}, which an annotation names.")
    rank = {category: index for index, category in enumerate(known)}
    by_picture: dict[int | str, list[_Annotation]] = {}
    for one in coco.annotations:
        by_picture.setdefault(one.image_id, []).append(one)
    found = []
    for file in files:
        picture = by_file[file]
        frame = preprocess.frame(*_size(picture, folder / file))
        found.append(_boxes(by_picture.get(picture.id, ()), rank, frame, preprocess))
    note = (
        f"Boxes are labelled by {path.name}: {len(known)} categories, counted from 0 in the order "
        "of their ids."
    )
    return tuple(found), (note,)


def _by_name(pictures: Sequence[_Picture]) -> dict[str, _Picture]:
    """The entries by path, and by bare name where that is unique."""
    names = [PurePosixPath(one.file_name).name for one in pictures]
    times = Counter(names)
    bare = {name: one for name, one in zip(names, pictures, strict=True) if times[name] == 1}
    return bare | {one.file_name: one for one in pictures}


def _of(pictures: Mapping[str, _Picture], file: str) -> _Picture | None:
    return pictures.get(file) or pictures.get(PurePosixPath(file).name)


def _size(picture: _Picture, path: Path) -> tuple[int, int]:
    """Width and height: as the entry has them, else of the file."""
    if picture.width and picture.height and min(picture.width, picture.height) > 0:
        return picture.width, picture.height
    try:
        with Image.open(path) as image:
            width, height = image.size
            return width, height
    except Exception:  # the reader of the images will say what is wrong with the file
        return 1, 1


def _boxes(
    annotations: Sequence[_Annotation],
    rank: Mapping[int, int],
    frame: tuple[float, float, float, float],
    preprocess: Preprocess,
) -> Boxes:
    a, b, c, d = frame
    given = np.array([one.bbox for one in annotations], np.float64).reshape(-1, 4)
    corners = np.concatenate([given[:, :2], given[:, :2] + given[:, 2:]], 1)
    moved = corners * [a, b, a, b] + [c, d, c, d]
    height, width = preprocess.crop
    clipped = moved.clip(0, [width, height, width, height])
    whole, seen = (np.maximum(one[:, 2:] - one[:, :2], 0).prod(1) for one in (moved, clipped))
    share = seen / np.maximum(whole, 1e-9)
    inside = seen > 0
    ids = np.array([one.category_id for one in annotations], np.int64)
    crowds = np.array([one.iscrowd != 0 for one in annotations], bool)
    return Boxes(
        boxes=clipped[inside],
        classes=np.array([rank[one] for one in ids.tolist()], np.int64)[inside],
        ids=ids[inside],
        ignored=(crowds | (share < _VISIBLE))[inside],
    )
