"""Reads ``.npy`` and ``.npz`` files, and takes samples along the first axis of arrays."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.lib import format as npy

from deployfold.errors import DeployfoldError, UsageError, first_line
from deployfold.util.arrays import Array

from .samples import Sample, SampleForm, SampleSource, text_shape

_T = TypeVar("_T")

SUFFIXES = (".npy", ".npz")
"""The suffixes of NumPy's files."""

_INFLATION = 50
_SMALL = 1 << 30
"""An archive is a decompression bomb if its entries claim more than ``_SMALL`` bytes and more than
``_INFLATION`` times the file's size. Float data hardly shrinks; smaller masks are harmless."""
_LOCAL_HEADER = 30  # bytes before the name of a zip entry, section 4.3.7 of the zip specification


def array_source(
    arrays: Mapping[str, Array], form: SampleForm, what: str, where: str
) -> SampleSource:
    """Samples along the first axis of arrays, one array per input.

    Inputs without a common batch axis, such as a picture and a scalar, may also be given as they
    are: arrays in the shapes of the inputs are one sample.

    Args:
        arrays: the arrays by input name; for one input, a single array may have any name.
        what: the name of the samples in messages.
        where: the name of the file or object in messages.

    Raises:
        UsageError: names, shapes, dtypes or numbers of samples do not match the inputs.
    """
    arrays = by_input(arrays, form, where)
    shapes = dict(zip(form.names, form.shapes, strict=True))
    if not form.stacked and all(arrays[name].shape == shape for name, shape in shapes.items()):
        arrays = {name: array[np.newaxis] for name, array in arrays.items()}
    for index, name in enumerate(form.names):
        array, place = arrays[name], _place(where, name, form)
        if array.shape[1:] != form.shapes[index] or not array.ndim:
            wanted = text_shape(("samples", *form.shapes[index]))
            raise UsageError(
                f"{place} has the shape {text_shape(array.shape)}, but must have {wanted}.",
                hint="The first axis counts the samples; the others are those of the input.",
            )
        form.check_dtype(index, array.dtype, place)
    counts = {name: len(arrays[name]) for name in form.names}
    if len(set(counts.values())) > 1:
        text = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise UsageError(f"{where} holds different numbers of samples: {text}.")

    def read(sample: int) -> Sample:
        return {
            name: form.conform(
                index, arrays[name][sample], f"Sample {sample} of {_place(where, name, form)}"
            )
            for index, name in enumerate(form.names)
        }

    return SampleSource(next(iter(counts.values())), read, what)


def by_input(given: Mapping[str, _T], form: SampleForm, where: str) -> Mapping[str, _T]:
    """The given items by input name; for one input, a single item may have any name.

    Raises:
        UsageError: the names are not those of the inputs.
    """
    if len(given) == len(form.names) == 1:
        return {form.names[0]: next(iter(given.values()))}
    if set(given) != set(form.names):
        found = ", ".join(map(str, given)) or "nothing"
        plural = "inputs are" if len(form.names) > 1 else "only input is"
        raise UsageError(
            f"{where} holds {found}, but the model's {plural} {', '.join(form.names)}.",
            hint="Give the arrays the names of the inputs.",
        )
    return given


def _place(where: str, name: str, form: SampleForm) -> str:
    return where if len(form.names) == 1 else f"{name!r} in {where}"


def open_arrays(path: Path) -> dict[str, Array]:
    """Open the arrays of an ``.npy`` or ``.npz`` file, memory-mapped unless they are compressed.

    Nothing is unpickled. The only array of an ``.npy`` file has the name ``""``.

    Raises:
        UsageError: the file cannot be read, is damaged, holds Python objects, or claims to hold
            far more than its size.
    """
    try:
        with path.open("rb") as file:
            if not file.read(4).startswith(b"PK"):
                file.seek(0)
                return {"": _mapped(path, file, str(path))}
            with zipfile.ZipFile(file) as archive:
                return _of_archive(path, file, archive)
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror or error}.") from error
    except DeployfoldError:
        raise
    except Exception as error:  # damaged headers and archives fail in many ways
        reason = first_line(error, 200).rstrip(".")
        raise UsageError(
            f"{path} is not an array file that can be read: {reason}.",
            hint="Write it with numpy.save, numpy.savez or numpy.savez_compressed.",
        ) from error


def _of_archive(path: Path, file: IO[bytes], archive: zipfile.ZipFile) -> dict[str, Array]:
    entries = archive.infolist()
    size = path.stat().st_size
    if sum(entry.file_size for entry in entries) > max(_SMALL, _INFLATION * size):
        raise UsageError(
            f"{path} claims to hold far more than its size, like a decompression bomb.",
            hint="If the file is sound, write it with numpy.savez, without compression.",
        )
    arrays: dict[str, Array] = {}
    for entry in entries:
        name = entry.filename.removesuffix(".npy")
        if name == entry.filename or name in arrays:
            raise UsageError(f"{path} holds {entry.filename!r}, which numpy.savez does not write.")
        where = f"{name!r} in {path}"
        if entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1:
            file.seek(entry.header_offset)
            header = file.read(_LOCAL_HEADER)
            lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(
                header[28:30], "little"
            )
            file.seek(entry.header_offset + _LOCAL_HEADER + lengths)
            arrays[name] = _mapped(path, file, where)
        else:
            with archive.open(entry) as stream:
                arrays[name] = _inflated(stream, entry.file_size, where)
    return arrays


def _mapped(path: Path, file: IO[bytes], where: str) -> Array:
    """Memory-map the array whose header begins at the position of ``file``."""
    shape, fortran, dtype = _header(file, where)
    if 0 in shape:
        return np.empty(shape, dtype)
    if file.tell() + math.prod(shape) * dtype.itemsize > path.stat().st_size:
        raise ValueError("the array is truncated")
    return np.memmap(
        path, dtype=dtype, mode="r", offset=file.tell(), shape=shape, order="F" if fortran else "C"
    )


def _inflated(stream: IO[bytes], size: int, where: str) -> Array:
    shape, fortran, dtype = _header(stream, where)
    wanted = math.prod(shape) * dtype.itemsize
    data = stream.read(wanted) if wanted <= size else b""
    if len(data) < wanted:
        raise ValueError("the array is truncated")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _header(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):  # version 3.0 is for field names beyond Latin-1
        raise ValueError("this version of the .npy format is for structured arrays")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise UsageError(
            f"{where} holds pickled Python objects, which could run code.",
            hint="Save an array of numbers.",
        )
    if any(side < 0 for side in shape):
        raise ValueError("the shape is negative")
    return shape, fortran, dtype
