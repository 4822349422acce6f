"""Rounds a weight to the codes of a format, and finds their scales."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deployfold.util.arrays import Array

from .columns import rows_of
from .formats import Format
from .layers import Layer

_BLOCK = 32
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
        block: inputs that share a scale; 0 is the whole width.
    """
    block = block or rows.shape[2]
    rows = rows.reshape(*rows.shape[:2], -1, block)
    weights = power.reshape(len(power), 1, -1, block)
    top = rows.abs().amax(3, keepdim=True)
    top = top.clamp_min(_least(rows.numpy()))
    best, least = top / form.largest, torch.full_like(top, float("inf"))
    for clip in _CLIPS:
        step = torch.from_numpy(half((top * clip / form.largest).numpy())).to(rows.dtype)
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
    """
    # The upper Cholesky factor of the inverse, without the inverse: in the reverse order of inputs,
    # the factor is the inverse of the lower Cholesky factor of the moments.
    lower = torch.linalg.cholesky(gram.flip(1, 2))
    one = torch.eye(rows.shape[2], dtype=rows.dtype).expand_as(lower)
    handed_on = torch.linalg.solve_triangular(lower, one, upper=False).flip(1, 2).transpose(1, 2)
    handed_on = handed_on / handed_on.diagonal(dim1=1, dim2=2).unsqueeze(1)
    # Inputs come before outputs in memory, so that a step reads and writes adjacent numbers.
    rest = rows.transpose(1, 2).contiguous()
    steps = steps.transpose(1, 2).contiguous()
    codes, errors = torch.empty_like(rest), torch.empty_like(rest)
    width = rest.shape[1]
    for start in range(0, width, _BLOCK):
        stop = min(start + _BLOCK, width)
        for column in range(start, stop):
            now, step = rest[:, column], steps[:, column]
            code = form.round(now / step)
            error = now - code * step
            codes[:, column], errors[:, column] = code, error
            # A batched product would cost more than the numbers that it multiplies.
            rest[:, column + 1 : stop] -= (
                handed_on[:, column + 1 : stop, column, None] * error[:, None]
            )
        # Columns beyond the block are updated once per block, so the tensor is read less often.
        rest[:, stop:] -= handed_on[:, stop:, start:stop] @ errors[:, start:stop]
    return codes.transpose(1, 2)


def stored_weight(layer: Layer, codes: Tensor, shape: tuple[int, ...], form: Format) -> Array:
    """Convert codes to the layout and type of the ONNX initialiser."""
    first = (shape[layer.axis], *shape[: layer.axis], *shape[layer.axis + 1 :])
    moved = np.moveaxis(codes.reshape(first).numpy(), 0, layer.axis)
    return np.ascontiguousarray(form.stored(moved))


def stored_scale(layer: Layer, steps: Tensor) -> Array:
    """Convert scales to the layout of DequantizeLinear, see :class:`~.layers.QuantisedLayer`."""
    matrix = steps.flatten(2).flatten(0, 1).numpy().astype(np.float32)
    if not layer.block:
        return matrix.ravel()
    return np.ascontiguousarray(matrix.T if layer.axis == 1 else matrix)
