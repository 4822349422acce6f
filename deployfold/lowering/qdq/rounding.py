"""Rounds a weight to the codes of a format, and finds their scales."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deployfold.exporting.session import Array

from .columns import rows_of
from .formats import Format
from .layers import Layer

_BLOCK = 64
"""Number of columns to round before the later columns are updated."""

_CLIPS = (1.0, 0.97, 0.94, 0.9, 0.86, 0.82)
"""Candidates for the largest weight that a scale represents, as shares of the actual largest."""


def plain(layer: Layer, weight: Array, form: Format) -> tuple[Array, Array]:
    """Round a weight to nearest; returns codes and float32 scales as in :class:`QuantisedLayer`.

    With blocks, each scale has the least squared error. Without blocks, no weight is clipped.
    """
    if layer.block:
        rows = rows_of(layer, weight)
        each = weight_scales(rows, torch.ones(1, rows.shape[2]), form, layer.block)
        codes = form.round(rows / spread(each, rows))
        return stored_weight(layer, codes, weight.shape, form), stored_scale(layer, each)
    moved = np.moveaxis(np.asarray(weight, np.float64), layer.axis, 0)
    flat = moved.reshape(len(moved), -1)
    steps = half(np.maximum(np.abs(flat).max(1), _least(flat)) / form.largest)
    rounded = form.stored(form.round(torch.from_numpy(flat / steps[:, None])).numpy())
    return np.moveaxis(rounded.reshape(moved.shape), 0, layer.axis), steps.astype(np.float32)


def half(scales: Array) -> Array:
    """Round scales to float16 if the change is at most 1 %.

    A later conversion of the model to fp16 then leaves these scales unchanged.
    """
    rounded = scales.astype(np.float16).astype(np.float64)
    near = np.abs(rounded - scales) <= 0.01 * scales
    return np.where(near, rounded, scales)


def _least(flat: Array) -> float:
    return max(float(np.abs(flat).max(initial=0.0)) * 1e-6, 1e-12)


def weight_scales(rows: Tensor, power: Tensor, form: Format, block: int) -> Tensor:
    """The scale of each block with the least output error, ``(groups, out / groups, blocks, 1)``.

    Args:
        rows: the weight, ``(groups, out / groups, width)``.
        power: the power of every input, ``(groups, width)``, which weights the squared errors.
        form: the format of the codes.
        block: inputs that share a scale; 0 is the whole width.
    """
    block = block or rows.shape[2]
    rows = rows.reshape(*rows.shape[:2], -1, block)
    weights = power.reshape(len(power), 1, -1, block)
    top = rows.abs().amax(3, keepdim=True)
    top = top.clamp_min(_least(rows.numpy()))
    best, least = top / form.largest, torch.full_like(top, float("inf"))
    for clip in _CLIPS:
        step = torch.from_numpy(half((top * clip / form.largest).numpy()))
        restored = form.round(rows / step) * step
        error = ((restored - rows).square() * weights).sum(3, keepdim=True)
        best = torch.where(error < least, step, best)
        least = torch.minimum(error, least)
    return best


def spread(steps: Tensor, rows: Tensor) -> Tensor:
    """Repeat the scale of each block for every weight, in the shape of ``rows``."""
    return steps.expand(*steps.shape[:3], rows.shape[2] // steps.shape[2]).flatten(2)


def compensated(rows: Tensor, steps: Tensor, gram: Tensor, form: Format) -> Tensor:
    """Round ``rows`` to codes; later columns compensate for the rounding error of each column.

    Args:
        rows: the weight, ``(groups, out / groups, width)``.
        steps: the scale of every weight, in the shape of ``rows``.
        gram: second moments of the inputs, ``(groups, width, width)``, positive definite.
        form: the format of the codes.
    """
    inverse = torch.linalg.inv(gram)
    upper = torch.linalg.cholesky((inverse + inverse.transpose(1, 2)) / 2, upper=True)
    rest, codes = rows.clone(), torch.empty_like(rows)
    errors = torch.empty_like(rows)
    width = rows.shape[2]
    for start in range(0, width, _BLOCK):
        stop = min(start + _BLOCK, width)
        for column in range(start, stop):
            one = slice(column, column + 1)
            code = form.round(rest[:, :, one] / steps[:, :, one])
            codes[:, :, one] = code
            errors[:, :, one] = (rest[:, :, one] - code * steps[:, :, one]) / upper[:, one, one]
            later = slice(column + 1, stop)
            rest[:, :, later] -= errors[:, :, one] * upper[:, one, later]
        # Columns beyond the block are updated once per block, so the tensor is read less often.
        block = slice(start, stop)
        rest[:, :, stop:] -= errors[:, :, block] @ upper[:, block, stop:]
    return codes


def stored_weight(layer: Layer, codes: Tensor, shape: tuple[int, ...], form: Format) -> Array:
    """Convert codes to the layout and type of the ONNX initialiser."""
    matrix = codes.reshape(-1, codes.shape[2])
    if layer.op_type == "MatMul" or (layer.op_type == "Gemm" and layer.axis == 1):
        matrix = matrix.T
    return np.ascontiguousarray(form.stored(matrix.reshape(shape).numpy()))


def stored_scale(layer: Layer, steps: Tensor) -> Array:
    """Convert scales to the layout of DequantizeLinear, see :class:`~.layers.QuantisedLayer`."""
    matrix = steps.flatten(2).flatten(0, 1).numpy().astype(np.float32)
    if not layer.block:
        return matrix.ravel()
    return np.ascontiguousarray(matrix.T if layer.axis == 1 else matrix)
