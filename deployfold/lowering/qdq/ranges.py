"""Proposes ranges for an activation: the largest magnitude that its scale can represent.

* ``max``: the largest observed magnitude; no value is clipped.
* ``percentile``: the range of 99.99 % of the values. Other values are cut off.
* ``mse``: the range with the least mean squared error of the quantised values. It may cut as well.
* each of these with :data:`HEADROOM`, as far as the tensor can reach.

The error of the layers' outputs decides between these estimators, on other pictures than those that
the range is estimated from, see :mod:`deployfold.lowering.qdq.quantise`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from deployfold.util.arrays import Array

from .formats import INT8, Format

PERCENTILE = 99.99
HEADROOM = 1.2
"""How much wider than its estimate a range may be, for values that the samples do not have."""

_BINS = 2048
_COUNTED = 2**22
"""About how many values the distribution is counted from; the largest is that of all values."""

_STEPS = 40
_TINY = float(np.finfo(np.float16).tiny)
"""The least scale. The scale stays positive in float16 even for a tensor of zeros."""


@dataclass(frozen=True, eq=False)
class Magnitudes:
    """The distribution of a tensor's magnitudes.

    Attributes:
        top: the largest magnitude.
        counts: the numbers of values in equal bins from 0 on.
        width: the width of a bin.
    """

    top: float
    counts: Array
    width: float


def magnitudes(values: Sequence[Array], folds: Sequence[int] = ()) -> list[Magnitudes]:
    """The distribution in each fold of the samples, in the same bins.

    Args:
        values: the tensor, one array a sample.
        folds: the index where each fold begins, without the first.
    """
    arrays = [np.asarray(value, np.float32).ravel() for value in values]
    tops = [max(float(array.max()), -float(array.min())) if array.size else 0.0 for array in arrays]
    width = max(*tops, _TINY) / _BINS
    # An odd step meets every row and channel of a tensor, whose sizes are mostly even.
    step = sum(array.size for array in arrays) // _COUNTED | 1
    marks = [0, *folds, len(arrays)]
    found = []
    for start, stop in itertools.pairwise(marks):
        counts = np.zeros(_BINS, np.int64)
        for array in arrays[start:stop]:  # three times as fast as numpy.histogram
            bins = np.abs(array[::step] * np.float32(1.0 / width)).astype(np.int32)
            counts += np.bincount(np.minimum(bins, _BINS - 1, out=bins), minlength=_BINS)
        found.append(Magnitudes(max(tops[start:stop]), counts, width))
    return found


def candidates(
    folds: Sequence[Magnitudes],
    form: Format = INT8,
    *,
    cut: bool = True,
    wider: bool = False,
    limit: float = math.inf,
) -> dict[str, float]:
    """The range that each estimator proposes for a tensor; every range is positive and finite.

    Args:
        folds: the distribution in some folds, from :func:`magnitudes`.
        cut: propose ranges that cut values off.
        wider: propose the ranges with head-room as well.
        limit: the largest magnitude that the tensor can have; head-room ends there.
    """
    least = _TINY * form.largest
    found = {"max": max(*(fold.top for fold in folds), least)}
    if cut:
        counts = np.sum([fold.counts for fold in folds], 0)
        edges = folds[0].width * np.arange(_BINS + 1)
        cumulative = np.cumsum(counts) / max(counts.sum(), 1)
        within = min(int(np.searchsorted(cumulative, PERCENTILE / 100.0)), _BINS - 1)
        found["percentile"] = max(float(edges[within + 1]), least)
        found["mse"] = _mse(counts, edges, found["max"], form)
    if wider:
        found |= {
            f"{name} + {HEADROOM - 1:.0%}": min(HEADROOM * end, max(limit, end))
            for name, end in found.items()
        }
    return found


def _mse(counts: Array, edges: Array, top: float, form: Format) -> float:
    centres = torch.from_numpy((edges[:-1] + edges[1:]) / 2)
    scales = torch.from_numpy(top * np.linspace(1.0, 0.3, _STEPS) / form.largest)[:, None]
    errors = (form.fake_quantise(centres, scales) - centres).square_() @ torch.from_numpy(
        counts.astype(np.float64)
    )
    return float(scales[errors.argmin()]) * form.largest
