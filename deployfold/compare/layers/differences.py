"""Compares the values of paired layers, in parts that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from deployfold.compare.layers.result import LayerDifference, Limits
from deployfold.events import Emit, StageProgress, ignore
from deployfold.util.arrays import Array
from deployfold.util.numerics import RunningDifference

from .pairing import Pair
from .side import Side

BUDGET = 256 * 2**20
"""Most bytes of each side's values in memory at a time."""
_UNKNOWN = 2**22  # elements of a tensor without a known shape


def compare_pairs(
    first: Side,
    second: Side,
    pairs: Sequence[Pair],
    limits: Limits,
    *,
    budget: int = BUDGET,
    emit: Emit = ignore,
) -> tuple[LayerDifference, ...]:
    """One difference for each pair, in order; :mod:`.pairing` chooses the pairs.

    Each part of the pairs costs one run of both sides per input.

    Raises:
        MeasureError, ExportError: a side does not run on these inputs.
    """
    found: list[LayerDifference] = []
    for done, part in _parts(pairs, budget):
        emit(StageProgress("compare", f"{part[0].name} …", done / len(pairs)))
        tallies = [_Comparison(one) for one in part]
        runs = (first.run([one.first for one in part]), second.run([one.second for one in part]))
        for ours, theirs in zip(*runs, strict=True):
            for tally, mine, other in zip(tallies, ours, theirs, strict=True):
                tally.add(mine, other)
        found += [one.result(limits) for one in tallies if one.comparable]
    return tuple(found)


def _parts(pairs: Sequence[Pair], budget: int) -> Iterator[tuple[int, list[Pair]]]:
    part: list[Pair] = []
    used = start = 0
    for number, one in enumerate(pairs):
        elements = one.first.elements or one.second.elements or _UNKNOWN
        if part and used + 8 * elements > budget:
            yield start, part
            part, used, start = [], 0, number
        part.append(one)
        used += 8 * elements
    if part:
        yield start, part


class _Comparison:
    """The comparison of one pair over all inputs."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._tally = RunningDifference()
        self._shape: tuple[int, ...] = ()
        self._other: tuple[int, ...] | None = None
        self.comparable = True

    def add(self, mine: Array, other: Array) -> None:
        self._shape = mine.shape
        if mine.shape != other.shape:
            self._other = other.shape
            self.comparable = self._pair.first.exact and self._pair.second.exact
        if self._other is None:
            left, right = mine.astype(np.float64), other.astype(np.float64)
            if self._pair.first.by_channel or self._pair.second.by_channel:
                right = _rescaled(left, right)
            self._tally.add(left.reshape(-1), right.reshape(-1))

    def result(self, limits: Limits) -> LayerDifference:
        pair = self._pair
        layer = LayerDifference(
            name=pair.name, kind=pair.kind, shape=self._shape, folded=pair.folded
        )
        if self._other is not None:
            shapes = ["x".join(map(str, shape)) or "scalar" for shape in (self._other, self._shape)]
            reason = f"its shape is {shapes[0]}, not {shapes[1]}"
            return layer.model_copy(update={"departs": reason})
        tally = self._tally
        return layer.model_copy(
            update={
                "max_abs_diff": tally.max_abs_diff,
                "sqnr_db": tally.sqnr_db,
                "cosine": tally.cosine,
                "departs": limits.missed(tally.sqnr_db, tally.max_abs_diff),
            }
        )


def _rescaled(reference: Array, values: Array) -> Array:
    """``values`` with each channel (axis 1) scaled to the reference by least squares."""
    if values.ndim < 2:
        return values
    axes = (0, *range(2, values.ndim))
    with np.errstate(invalid="ignore", divide="ignore"):
        factors = (reference * values).sum(axis=axes) / np.square(values).sum(axis=axes)
    factors = np.where(np.isfinite(factors) & (factors > 0), factors, 1.0)
    scaled: Array = values * factors.reshape(1, -1, *[1] * (values.ndim - 2))
    return scaled
