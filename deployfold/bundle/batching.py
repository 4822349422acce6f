"""Checks whether a server may join the requests of several clients into one batch.

Triton appends the rows of one request to those of another, runs the model once, and splits every
output at the same rows. The result is correct only if the first axis of every output is the batch,
and no row depends on another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deployfold.errors import one_line
from deployfold.finish.reference import read_reference
from deployfold.util.arrays import Array
from deployfold.util.numerics import sqnr_db
from deployfold.util.onnx_files import cpu_session, dims_of, graph_inputs, read_graph

_SAME_DB = 40.0
"""SQNR in dB from which two rows are equal. fp16 rounds at about 60 dB. A row that depends on its
neighbours, such as through the mean of a batch, changes by far more than a hundredth."""


def why_not_joined(onnx: Path, reference: Path, smallest: int = 1) -> str | None:
    """Why requests to a model may not be joined; ``None`` if they may.

    1. The first axes of all inputs and outputs must be the same symbol.
    2. At two batch sizes, every output must have as many rows as the inputs.
    3. The rows of the larger batch must equal those of the smaller batches.

    Args:
        onnx: the model; all other artifacts of a build compute the same function.
        reference: the reference inference, from whose inputs the batches are made.
        smallest: the smallest batch that the model serves.
    """
    graph = read_graph(onnx)
    axes = [
        [(one.name, next(iter(dims_of(one)), None)) for one in side]
        for side in (graph_inputs(graph), graph.output)
    ]
    if (reason := _not_one_symbol(*axes)) is not None:
        return reason
    try:
        inputs, _ = read_reference(reference)
        return _not_by_rows(onnx, inputs, smallest)
    except Exception as error:  # ONNX Runtime raises many types, also for a missing kernel
        return f"ONNX Runtime cannot run two batch sizes to prove it ({one_line(error)})"


Axes = list[tuple[str, str | int | None]]
"""The first axis of each tensor: a symbol, a size, or ``None`` for a scalar."""


def _not_one_symbol(inputs: Axes, outputs: Axes) -> str | None:
    symbol = inputs[0][1] if inputs else None
    if not isinstance(symbol, str):
        return "the batch size is fixed"
    for side, axes in (("input", inputs), ("output", outputs)):
        for name, axis in axes:
            if axis != symbol:
                shown = "none" if axis is None else axis or "unknown"
                return (
                    f"the first axis of the {side} {name!r} is {shown}, but that of the input "
                    f"{inputs[0][0]!r} is {symbol}"
                )
    return None


def _not_by_rows(onnx: Path, inputs: Sequence[Array], smallest: int) -> str | None:
    session = cpu_session(onnx)
    names = [one.name for one in session.get_inputs()]
    outputs = [one.name for one in session.get_outputs()]
    rows = [_different_rows(array, smallest + 1) for array in inputs]

    def run(first: int, last: int) -> list[Array]:
        found: list[Array] = session.run(
            None, {name: row[first:last] for name, row in zip(names, rows, strict=True)}
        )
        return found

    whole = run(0, smallest + 1)
    for first, last in ((0, smallest), (1, smallest + 1)):
        for name, all_rows, some in zip(outputs, whole, run(first, last), strict=True):
            for array, size in ((all_rows, smallest + 1), (some, smallest)):
                if len(array) != size:
                    return f"the output {name!r} has {len(array)} rows for a batch of {size}"
            if not _same(some, all_rows[first:last]):
                return f"the rows of the output {name!r} depend on the other rows of the batch"
    return None


def _different_rows(array: Array, size: int) -> Array:
    """``size`` different rows, made by rotating the rows of ``array``."""
    return np.stack([np.roll(array[row % len(array)], row) for row in range(size)])


def _same(first: Array, second: Array) -> bool:
    if first.dtype.kind not in "fc":
        return bool(np.array_equal(first, second))
    return sqnr_db(first, second) >= _SAME_DB
