"""Quantises one layer with the least error of its output, judged on samples outside the fit.

A layer is ``y = a(W c + b)`` over columns ``c``: the patches of a convolution, or the rows of a
matrix product. ``a`` is a clipping activation behind the layer, such as ReLU6. ``C`` are the
columns in fp32. ``Q`` are the columns that the layer reads once all earlier layers are quantised.

1. The range of the input activation is the candidate with the least error of ``y``. Every output
   channel counts the same.
2. Ridge regression fits the weight to the quantised columns, ``min |W C - V Q|² + λ |V - W|²``, and
   so compensates for errors of earlier layers.
3. The fitted weight is rounded column by column. The error of each column is handed on to the
   columns not yet rounded (optimal brain quantisation: Frantar and Alistarh, 2022; GPTQ's order).
4. The bias restores the mean of every output channel (bias correction: Nagel et al., 2019). The
   mean is taken behind ``a``, because the mean before ``a`` includes values that ``a`` cuts off.

Cross-validation over two folds that share no picture decides how far 2 and 3 follow the samples,
and whether 4 is applied: a fit to one fold is judged by ``|a(W C + b) - a(V Q + b')|²`` on the
other. Rounding to nearest without a correction is always a candidate, and stays if no other is
better. Layers near the input have many columns that are alike in all pictures, and the strongest
fit wins there. For the last layers, rounding to nearest wins.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deployfold.util.arrays import Array

from .formats import Format
from .layers import Layer
from .moments import Moments, moments_of, stacked
from .problem import Problem
from .rounding import compensated, spread, stored_scale, stored_weight, weight_scales

WIDEST = 1536
"""Largest width with a fit. Wider weights (3x3 over more than 170 channels) are rounded to nearest:
steps 2 and 3 cost the cube of the width, and rounding errors average out over so many inputs."""

_LEAST_POWER = 1e-3
"""Share of the inputs' mean power that is added to each input's power, because an input that is
always 0 has no power."""


@dataclass(frozen=True)
class Strength:
    """How closely a weight is fitted to the samples; smaller numbers trust the samples more.

    Attributes:
        name: the name for the report.
        ridge: of the fit (step 2), relative to each input's power; ``None`` for no fit.
        damping: of the rounding (step 3), relative to each input's power; ``None`` rounds to
            nearest.
    """

    name: str
    ridge: float | None = None
    damping: float | None = None


NEAREST = Strength("nearest")

STRENGTHS = (
    NEAREST,
    Strength("rounding compensated, weakly", None, 1.0),
    Strength("fitted, weakly", 20.0, 0.1),
    Strength("fitted", 2.0, 0.1),
)
"""The candidates, starting with the one that trusts the samples least."""

HOPELESS = 1.05
"""The search stops once a strength's error on other pictures exceeds the least by this factor. The
first fold alone stops the search as well."""


@dataclass(frozen=True)
class Choice:
    """How closely a layer follows the samples.

    Attributes:
        strength: the strength of the fit.
        corrected: whether the bias correction is applied.
    """

    strength: Strength
    corrected: bool


@dataclass(frozen=True, eq=False)
class Fitted:
    """A quantised weight and its corrected bias.

    Attributes:
        weight: the codes, in the type and layout of the ONNX initialiser.
        weight_scale: float32 scales, see :class:`~.layers.QuantisedLayer`.
        bias: the new bias, float32; ``None`` for a layer without a bias.
        choice: how closely both follow the samples.
    """

    weight: Array
    weight_scale: Array
    bias: Array | None
    choice: Choice


def fit(
    layer: Layer,
    weight: Array,
    problem: Problem,
    strengths: Sequence[Strength],
    form: Format,
    choice: Choice | None = None,
) -> Fitted:
    """Quantise the weight and correct the bias of one layer, as the module describes.

    Args:
        weight: the fp32 weight in the layout of the ONNX initialiser.
        problem: the same layer as rows and columns.
        strengths: the strengths to try, :data:`NEAREST` first.
        choice: a choice of before, which spares the cross-validation.
    """
    rows = problem.rows
    folds: list[Moments] = []
    if rows.shape[2] > WIDEST:
        strengths = (NEAREST,)
    elif len(strengths) > 1:
        folds = moments_of(problem.exact, problem.read, problem.weights)
    if choice is None:
        choice = _best(problem, strengths, folds, form, layer.block)
    whole = functools.reduce(operator.add, folds) if folds else None
    steps, codes = _quantised(rows, whole, choice.strength, form, layer.block)
    offset = None
    if choice.corrected:
        offset = problem.offset(problem.outputs(codes * spread(steps, rows)), problem.parts)
    bias = problem.bias if offset is None or problem.bias is None else problem.bias + offset
    return Fitted(
        weight=stored_weight(layer, codes, weight.shape, form),
        weight_scale=stored_scale(layer, steps),
        bias=None if bias is None else bias.flatten().numpy(),
        choice=choice,
    )


def _best(
    problem: Problem,
    strengths: Sequence[Strength],
    folds: Sequence[Moments],
    form: Format,
    block: int,
) -> Choice:
    """The choice with the least error outside the fit."""
    parts = problem.parts
    if len(parts) < 2:
        # Nothing can judge a stronger fit.
        return Choice(strengths[min(1, len(strengths) - 1)], True)
    best, least = Choice(NEAREST, False), [float("inf")] * len(parts)
    # All folds are fitted in one batch, as further groups: the rounding goes column by column.
    rows = problem.rows.repeat(len(parts), 1, 1)
    others = stacked([_without(folds, index) for index in range(len(parts))]) if folds else None
    for strength in strengths:
        plain, corrected, errors = 0.0, 0.0, list[float]()
        steps, codes = _quantised(rows, others, strength, form, block)
        weights = (codes * spread(steps, rows)).chunk(len(parts))
        for index, judge in enumerate(parts):
            outputs = problem.outputs(weights[index])
            offset = problem.offset(outputs, [part for part in parts if part is not judge])
            plain += problem.error(outputs, None, judge)
            corrected += problem.error(outputs, offset, judge)
            errors.append(min(plain, corrected))
            if errors[-1] > HOPELESS * least[index]:
                return best
        if errors[-1] < least[-1]:
            best, least = Choice(strength, corrected < plain), errors
    return best


def _without(folds: Sequence[Moments], index: int) -> Moments:
    return functools.reduce(operator.add, [*folds[:index], *folds[index + 1 :]])


def _quantised(
    rows: Tensor, moments: Moments | None, strength: Strength, form: Format, block: int
) -> tuple[Tensor, Tensor]:
    """Do steps 2 and 3: the scales of :func:`weight_scales`, and the codes of the fitted weight."""
    if moments is None:
        steps = weight_scales(rows, torch.ones(len(rows), rows.shape[2]), form, block)
        return steps, form.round(rows / spread(steps, rows))
    gram, cross = moments.gram, moments.cross
    power = gram.diagonal(dim1=1, dim2=2)
    power = power + _LEAST_POWER * (power.mean(1, keepdim=True) + power.mean()) + 1e-30
    fitted = rows
    if strength.ridge is not None:
        damped = torch.linalg.cholesky(gram + torch.diag_embed(strength.ridge * power))
        change = torch.cholesky_solve((rows @ cross).transpose(1, 2), damped)
        fitted = rows - change.transpose(1, 2)
    steps = weight_scales(fitted, power, form, block)
    each = spread(steps, rows)
    if strength.damping is None:
        return steps, form.round(fitted / each)
    return steps, compensated(fitted, each, gram + torch.diag_embed(strength.damping * power), form)
