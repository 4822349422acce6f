"""Proposes ranges for an activation: the largest magnitude that its scale can represent.

* ``max``: the largest observed magnitude; no value is clipped.
* ``percentile``: the range of 99.99 % of the values.
* ``mse``: the range with the least mean squared error of the quantised values.

The error of the layer's output decides between these estimators, see
:mod:`deployfold.lowering.qdq.fit`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from deployfold.exporting.session import Array

from .formats import INT8, Format

PERCENTILE = 99.99
_BINS = 2048
_COUNTED = 2**22
"""About how many values the distribution is counted from; the largest is that of all values."""

_STEPS = 40
_TINY = float(np.finfo(np.float16).tiny)
"""The least scale. The scale stays positive in float16 even for a tensor of zeros."""


def candidates(values: Iterable[Array], form: Format = INT8) -> dict[str, float]:
    """The range that each estimator proposes for a tensor; every range is positive and finite."""
    arrays = [np.asarray(value, np.float32).ravel() for value in values]
    tops = (float(max(array.max(), -array.min())) for array in arrays if array.size)
    top = max(tops, default=0.0)
    if top <= _TINY * form.largest:
        return {"max": _TINY * form.largest}
    counts = np.zeros(_BINS, np.int64)
    # An odd step meets every row and channel of a tensor, whose sizes are mostly even.
    step = sum(array.size for array in arrays) // _COUNTED | 1
    for array in arrays:  # three times as fast as numpy.histogram
        bins = np.abs(array[::step] * np.float32(_BINS / top)).astype(np.int32)
        counts += np.bincount(np.minimum(bins, _BINS - 1, out=bins), minlength=_BINS)
    edges = np.linspace(0.0, top, _BINS + 1)
    cumulative = np.cumsum(counts) / counts.sum()
    within = min(int(np.searchsorted(cumulative, PERCENTILE / 100.0)), _BINS - 1)
    return {
        "max": top,
        "percentile": float(edges[within + 1]),
        "mse": _mse(counts, edges, top, form),
    }


def _mse(counts: Array, edges: Array, top: float, form: Format) -> float:
    centres = torch.from_numpy((edges[:-1] + edges[1:]) / 2)
    weights = torch.from_numpy(counts)
    best, least = top, float("inf")
    for share in np.linspace(1.0, 0.3, _STEPS):
        scale = top * float(share) / form.largest
        restored = form.fake_quantise(centres, scale)
        error = float((weights * (restored - centres).square()).sum())
        if error < least:
            best, least = scale * form.largest, error
    return best
