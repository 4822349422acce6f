"""Describes and saves what ``deployfold run`` computed; :class:`RunRecord` is its ``--json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deployfold.data.arrays import SUFFIXES
from deployfold.errors import UsageError
from deployfold.reporting.fields import Count, Frozen, Number
from deployfold.reporting.row import CudaGraph
from deployfold.util.arrays import Array
from deployfold.util.files import atomic_path
from deployfold.util.numerics import top_classes

TOP = 5


class Output(Frozen):
    """One output tensor.

    Attributes:
        name, shape, dtype: those of the tensor.
        minimum, maximum, mean: of the finite values; ``None`` without any, or for a dtype that is
            not a number.
        nonfinite: the number of values that are NaN or infinite.
        top: for every sample, the five greatest values with their classes in descending order, if
            this is the only output and has the shape (N, classes).
    """

    name: str
    shape: tuple[Count, ...]
    dtype: str
    minimum: Number | None = None
    maximum: Number | None = None
    mean: Number | None = None
    nonfinite: Count = 0
    top: tuple[tuple[tuple[Count, Number], ...], ...] = ()


class RunInput(Frozen):
    """An input; ``data`` is a file, or ``seeded random``."""

    name: str | None
    shape: tuple[Count, ...]
    dtype: str
    data: str


class RunRecord(Frozen):
    """One inference.

    Attributes:
        placement: which nodes of an ONNX another provider than the CPU's ran.
        cuda_graph: how an engine's work was launched; ``None`` for other files.
    """

    artifact: str
    runtime: str
    placement: str | None = None
    cuda_graph: CudaGraph | None = None
    inputs: tuple[RunInput, ...]
    outputs: tuple[Output, ...]


def describe(name: str, array: Array, *, alone: bool) -> Output:
    """Describe an output; ``alone`` is true for the only output of the model."""
    shape, dtype = tuple(array.shape), str(array.dtype)
    if array.dtype.kind not in "biuf":
        return Output(name=name, shape=shape, dtype=dtype)
    numbers = array.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    classifier = alone and array.ndim == 2 and array.dtype.kind == "f" and shape[1] > 1
    return Output(
        name=name,
        shape=shape,
        dtype=dtype,
        minimum=float(finite.min()) if finite.size else None,
        maximum=float(finite.max()) if finite.size else None,
        mean=float(finite.mean()) if finite.size else None,
        nonfinite=int(numbers.size - finite.size),
        top=_top(numbers) if classifier else (),
    )


def save_outputs(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write outputs to an ``.npz`` by name, or a single one to an ``.npy``.

    Raises:
        UsageError: the path has another suffix, there are several outputs for an ``.npy``, or the
            file cannot be written.
    """
    check_suffix(path)
    if path.suffix == ".npy" and len(arrays) != 1:
        raise UsageError(f"{len(arrays)} outputs do not fit one .npy file.", hint="Name an .npz.")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        if path.suffix == ".npy":
            np.save(file, next(iter(arrays.values())), allow_pickle=False)
        else:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # none is named allow_pickle


def check_suffix(path: Path) -> None:
    """Refuse a file that is neither ``.npz`` nor ``.npy``.

    Raises:
        UsageError: the path has another suffix.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path} is neither an .npz nor an .npy file.")


def _top(numbers: NDArray[np.float64]) -> tuple[tuple[tuple[int, float], ...], ...]:
    return tuple(
        tuple((int(index), float(row[index])) for index in indices)
        for row, indices in zip(numbers, top_classes(numbers, TOP), strict=True)
    )
