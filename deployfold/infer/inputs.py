"""Reads the inputs of ``deployfold run``: files of arrays, shapes, or random values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deployfold.config.inputs import DTYPES, InputSpec, TensorSpec
from deployfold.data.arrays import SUFFIXES, open_arrays
from deployfold.errors import UsageError
from deployfold.runtimes.tensorrt_file import numpy_dtype
from deployfold.util.arrays import Array


@dataclass(frozen=True, eq=False)
class Given:
    """One requested input: its shape and dtype, and for a file its values and its path."""

    spec: TensorSpec
    values: Array | None = None
    origin: str = ""


def parse_given(texts: Iterable[str]) -> tuple[Given, ...]:
    """Read every ``--input``: ``[NAME=]FILE.npy``, ``FILE.npz`` or ``[NAME=]SHAPE[:DTYPE]``.

    The arrays of an ``.npz`` are inputs by their names.

    Raises:
        UsageError: a text is none of these, a file cannot be read or holds no numbers, or an input
            is given twice.
    """
    found = tuple(given for text in texts for given in _parse(text))
    names = [given.spec.name for given in found if given.spec.name is not None]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"The input {name!r} is given twice.")
    return found


def values_for(inputs: InputSpec, given: Sequence[Given]) -> list[Given | None]:
    """The requested input for each input of the model, in order; ``None`` without one.

    Requested inputs without a name belong to the remaining inputs, in order.
    """
    by_name = {one.spec.name: one for one in given if one.spec.name is not None}
    if len(given) == len(inputs.tensors) == 1:
        by_name = {inputs.names[0]: given[0]}  # a single input may have any name
    unnamed = iter(one for one in given if one not in by_name.values())
    return [by_name.get(name) or next(unnamed, None) for name in inputs.names]


def random_array(tensor: TensorSpec, rng: np.random.Generator) -> Array:
    """Random values like those of :func:`deployfold.loading.make_inputs`, but without torch."""
    dtype = numpy_dtype(tensor.dtype)
    if dtype.kind in "iub":
        return rng.integers(0, 256 if dtype == np.uint8 else 2, tensor.shape).astype(dtype)
    return rng.standard_normal(tensor.shape).astype(dtype)


def _parse(text: str) -> Iterator[Given]:
    name, separator, rest = text.partition("=")
    named = separator and re.fullmatch(r"[^\s/\\=]+", name) and not Path(text).exists()
    word = rest if named else text
    if not word.lower().endswith(SUFFIXES):
        yield Given(TensorSpec.parse(text))
        return
    path = Path(word)
    arrays = open_arrays(path)
    if "" in arrays:
        yield _given(arrays[""], name if named else None, path)
        return
    if named:
        raise UsageError(
            f"{path} has named arrays, so it cannot have one name.", hint=f"Use --input {path}."
        )
    if not arrays:
        raise UsageError(f"{path} holds no arrays.")
    for key, array in arrays.items():
        yield _given(array, key, path)


def _given(array: Array, name: str | None, path: Path) -> Given:
    dtype = str(array.dtype.newbyteorder("="))
    if dtype not in DTYPES:
        raise UsageError(
            f"{path} holds {dtype}, which no input can have.",
            hint=f"Save it as one of: {', '.join(DTYPES)}.",
        )
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return Given(TensorSpec(tuple(array.shape), name, dtype), native, str(path))
