"""Quantising one layer so that its output stays closest to what it was.

A layer is ``y = W c + b`` over columns ``c``: the patches of a convolution, the rows of a matrix
product. With ``C`` the columns it reads once everything before it is quantised, and ``Y`` the
outputs it had in fp32,

1. the range of the activation is the candidate with the least ``|a(Y) - a(W q(C))|``, where ``a``
   is the clipping behind the layer, and every output channel counts the same;
2. the weight is fitted to the quantised columns, ``min |Y - V q(C)|² + λ |V - W|²``, by ridge
   regression, which makes up for errors of the layers before;
3. it is rounded column by column, the error of each handed on to the columns not yet rounded
   (optimal brain quantisation: Frantar and Alistarh, 2022; GPTQ's order);
4. the bias makes the mean of every output channel what it was (bias correction: Nagel et al.,
   2019).

All this is computed on a sample of the columns, in float64 but for the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deployfold.exporting.session import Array

from .columns import Columns, rows_of
from .formats import Format
from .layers import Layer

RIDGE = 20.0
"""λ over the mean of the diagonal of ``q(C) q(C)ᵀ``. A small one fits the calibration samples: with
0.2, 2 and 20, and 64 of them, MobileNetV2 had 15.5, 18.3 and 19.5 dB on other pictures."""

WIDEST = 1536
"""Wider weights (3x3 over more than 170 channels) are rounded to nearest: the two steps above cost
the cube of the width, and rounding errors average out over so many inputs."""

COMPARED = 2048
"""Columns on which the ranges are compared."""

POWER_FLOOR = 0.01
"""Of the mean variance of the channels, added to that of each: a constant one does not decide."""

DAMPING = 0.01
"""Added to that diagonal, over its mean, before it is inverted for the rounding (as GPTQ does)."""

_BLOCK = 64
"""Columns rounded before the others are updated."""

_CLIPS = (1.0, 0.97, 0.94, 0.9, 0.86, 0.82)
"""Shares of a channel's largest weight that its scale may represent."""


Bounds = tuple[float, float]
"""Where the activation behind a layer clips its output: ``(0, 6)`` of a ReLU6."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """``weight`` is in the type and layout of the ONNX initialiser; ``bias`` has the new bias."""

    weight: Array
    weight_scale: Array
    bias: Array
    sqnr_db: float


def errors_of(
    rows: Tensor,
    bias: Array | None,
    bounds: Bounds,
    exact: Columns,
    actual: Columns,
    scales: Mapping[str, float],
    form: Format,
) -> dict[str, float]:
    """What each range of the activation costs the output of a layer, by name; smaller is better.

    It is the sum over the output channels of the squared error over their variance: a channel with
    outliers counts no more than another, and values beyond ``bounds`` do not count as errors.
    """
    step = max(1, exact.values.shape[2] // COMPARED)
    weight, read = rows.float(), actual.values[:, :, ::step]
    offset = 0.0 if bias is None else torch.tensor(bias).float().reshape(*rows.shape[:2], 1)
    product = weight @ exact.values[:, :, ::step]
    wanted = (product + offset).clamp(*bounds)
    power = wanted.var(2, correction=0)
    least = POWER_FLOOR * power.mean() + 1e-30
    errors = {}
    for name, scale in scales.items():
        given = weight @ form.fake_quantise(read, scale)
        given += (product - given).mean(2, keepdim=True) + offset  # as the bias correction will
        error = (wanted - given.clamp_(*bounds)).square_().mean(2)
        errors[name] = float((error / (power + least)).sum())
    return errors


def fit(
    layer: Layer,
    weight: Array,
    bias: Array | None,
    exact: Columns,
    actual: Columns,
    scale: float | None,
    form: Format,
) -> Fitted:
    """Quantise the weight and correct the bias; see the module.

    Args:
        exact: the columns in fp32.
        actual: the same columns after everything before is quantised, not yet quantised themselves.
        scale: of the activation; ``None`` leaves it as it is.
        form: what they are rounded to.
    """
    rows = rows_of(layer, weight)
    read = (actual.values if scale is None else actual.quantised(scale, form)).double()
    wide = exact.values.double()
    # Without a bias there is nothing that could make up for a shift of the mean.
    mean = bias is not None
    before, after = (part.mean(2, keepdim=True) * mean for part in (wide, read))
    target, centred = rows @ (wide - before), read - after
    if rows.shape[2] > WIDEST:
        steps = _weight_scales(rows, centred.square().sum(2), form, layer.block)
        codes = form.round(rows / _spread(steps, rows))
    else:
        steps, codes = _fit_and_round(rows, target, centred, form, layer.block)
    restored = codes * _spread(steps, rows)
    offset = (rows @ before - restored @ after).flatten()
    new_bias = np.zeros(offset.numel()) if bias is None else bias.astype(np.float64)
    noise = float((target - restored @ centred).square().sum())
    signal = float((target + rows @ before).square().sum())
    return Fitted(
        weight=_as_weight(layer, codes, weight.shape, form),
        weight_scale=_as_scale(layer, steps),
        bias=(new_bias + offset.numpy()).astype(np.float32),
        sqnr_db=_decibels(signal, noise),
    )


def _fit_and_round(
    rows: Tensor, target: Tensor, read: Tensor, form: Format, block: int
) -> tuple[Tensor, Tensor]:
    """Steps 2 and 3: scales, see :func:`_weight_scales`, and the codes of the fitted weight."""
    gram = read @ read.transpose(1, 2)
    level = gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)[:, None, None]
    eye = torch.eye(gram.shape[1], dtype=torch.float64)
    ridge = RIDGE * level * eye
    fitted = torch.linalg.solve(
        gram + ridge, (target @ read.transpose(1, 2) + rows @ ridge).transpose(1, 2)
    ).transpose(1, 2)
    steps = _weight_scales(fitted, gram.diagonal(dim1=1, dim2=2), form, block)
    return steps, _round(fitted, _spread(steps, rows), gram + DAMPING * level * eye, form)


def plain(layer: Layer, weight: Array, form: Format) -> tuple[Array, Array]:
    """Round to nearest: weight and float32 scales, as :class:`QuantisedLayer` has them.

    A block's scale is the one with the least squared error; without blocks, nothing is clipped.
    """
    if layer.block:
        rows = rows_of(layer, weight)
        each = _weight_scales(rows, torch.ones(1, rows.shape[2]), form, layer.block)
        codes = form.round(rows / _spread(each, rows))
        return _as_weight(layer, codes, weight.shape, form), _as_scale(layer, each)
    moved = np.moveaxis(np.asarray(weight, np.float64), layer.axis, 0)
    flat = moved.reshape(len(moved), -1)
    steps = half(np.maximum(np.abs(flat).max(1), _least(flat)) / form.largest)
    rounded = form.stored(form.round(torch.from_numpy(flat / steps[:, None])).numpy())
    return np.moveaxis(rounded.reshape(moved.shape), 0, layer.axis), steps.astype(np.float32)


def half(scales: Array) -> Array:
    """Scales rounded to float16 where that moves them by 1 % at most: fp16 then changes nothing."""
    rounded = scales.astype(np.float16).astype(np.float64)
    near = np.abs(rounded - scales) <= 0.01 * scales
    return np.where(near, rounded, scales)


def _least(flat: Array) -> float:
    return max(float(np.abs(flat).max(initial=0.0)) * 1e-6, 1e-12)


def _weight_scales(rows: Tensor, power: Tensor, form: Format, block: int) -> Tensor:
    """``(groups, out / groups, blocks, 1)``: of each block the scale that costs its output least.

    ``power`` is that of every input, ``(groups, width)``; a ``block`` of 0 is the whole width.
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


def _spread(steps: Tensor, rows: Tensor) -> Tensor:
    """The scale of every weight, in the shape of ``rows``."""
    return steps.expand(*steps.shape[:3], rows.shape[2] // steps.shape[2]).flatten(2)


def _round(rows: Tensor, steps: Tensor, gram: Tensor, form: Format) -> Tensor:
    """Codes of the format, each column's rounding error compensated in the ones after it."""
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
        # What lies beyond the block is updated once for all of it: the tensor is read less often.
        block = slice(start, stop)
        rest[:, :, stop:] -= errors[:, :, block] @ upper[:, block, stop:]
    return codes


def _as_weight(layer: Layer, codes: Tensor, shape: tuple[int, ...], form: Format) -> Array:
    matrix = codes.reshape(-1, codes.shape[2])
    if layer.op_type == "MatMul" or (layer.op_type == "Gemm" and layer.axis == 1):
        matrix = matrix.T
    return np.ascontiguousarray(form.stored(matrix.reshape(shape).numpy()))


def _as_scale(layer: Layer, steps: Tensor) -> Array:
    matrix = steps.flatten(2).flatten(0, 1).numpy().astype(np.float32)
    if not layer.block:
        return matrix.ravel()
    return np.ascontiguousarray(matrix.T if layer.axis == 1 else matrix)


def _decibels(signal: float, noise: float) -> float:
    if noise == 0.0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal > 0 else float("-inf")
