"""Quantising one layer so that its output stays closest to what it was, on new samples too.

A layer is ``y = a(W c + b)`` over columns ``c``: the patches of a convolution, the rows of a matrix
product; ``a`` is the activation behind it where that clips, such as ReLU6. With ``C`` the columns
in fp32 and ``Q`` those that it reads once everything before it is quantised,

1. the range of the activation is the candidate with the least error of ``y``, where every output
   channel counts the same;
2. the weight is fitted to the quantised columns, ``min |W C - V Q|² + λ |V - W|²``, by ridge
   regression, which makes up for errors of the layers before;
3. it is rounded column by column, the error of each handed on to the columns not yet rounded
   (optimal brain quantisation: Frantar and Alistarh, 2022; GPTQ's order);
4. the bias makes the mean of every output channel what it was (bias correction: Nagel et al.,
   2019), behind ``a``: the mean before it is that of values which ``a`` cuts off.

How far 2 and 3 follow the samples, and whether 4 is applied, is decided by cross-validation over
two folds that share no picture: what is fitted to one is judged by ``|a(W C + b) - a(V Q + b')|²``
on the other. Rounding to nearest without a correction is always among the candidates, and stays
where nothing beats it. Of layers near the input, whose columns are many and alike in all pictures,
the strongest fit wins; of the last ones, rounding to nearest.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deployfold.exporting.session import Array

from .columns import Columns
from .formats import Format
from .layers import Layer
from .moments import Moments, moments_of
from .rounding import compensated, spread, stored_scale, stored_weight, weight_scales

WIDEST = 1536
"""Wider weights (3x3 over more than 170 channels) are rounded to nearest: the two steps above cost
the cube of the width, and rounding errors average out over so many inputs."""

COMPARED = 2048
"""Columns on which ranges are compared and biases found."""

POWER_FLOOR = 0.01
"""Of the mean variance of the channels, added to that of each: a constant one does not decide."""

_LEAST_POWER = 1e-3
"""Of the mean power of the inputs, added to that of each: one that is always 0 has none."""

_NEWTON_STEPS = 3
"""The error of the mean is then below a hundredth of what it was."""

RARE = 0.01
"""A channel whose outputs are within the bounds for this share of columns moves half as far."""

Bounds = tuple[float, float]
"""Where the activation behind a layer clips its output: ``(0, 6)`` of a ReLU6."""

UNBOUNDED: Bounds = (-float("inf"), float("inf"))


@dataclass(frozen=True)
class Strength:
    """How far a weight follows the samples.

    Attributes:
        name: for the report.
        ridge: of the fit, over the power of each input; ``None`` for no fit.
        damping: of the rounding, likewise; ``None`` rounds to nearest.
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
"""From the one that trusts the samples least."""

HOPELESS = 1.1
"""Where the error on other pictures grows beyond this factor, no stronger one is tried."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """``weight`` is in the type and layout of the ONNX initialiser; ``bias`` has the new bias."""

    weight: Array
    weight_scale: Array
    bias: Array | None
    strength: Strength
    corrected: bool


@dataclass(frozen=True, eq=False)
class Problem:
    """One layer to fit.

    Attributes:
        rows: the fp32 weight, see :func:`rows_of`.
        bias: ``(groups, out / groups, 1)``; ``None`` without one.
        bounds: of the activation behind the layer.
        exact: the columns in fp32.
        read: the columns as the quantised layer reads them.
    """

    rows: Tensor
    bias: Tensor | None
    bounds: Bounds
    exact: Columns
    read: Columns

    @functools.cached_property
    def wanted(self) -> Tensor:
        """The fp32 outputs behind the activation."""
        return self._product(self.rows, self.exact.values).clamp_(*self.bounds)

    def error(self, weight: Tensor, offset: Tensor | None, part: slice) -> float:
        """The squared error of the outputs of some columns, behind the activation."""
        given = self._product(weight, self.read.values[:, :, part])
        if offset is not None:
            given += offset
        return float((given.clamp_(*self.bounds) - self.wanted[:, :, part]).square_().sum())

    def offset(self, weight: Tensor, parts: Sequence[slice]) -> Tensor | None:
        """What added to the bias leaves no mean error behind the activation on these columns.

        Newton's method: only outputs within the bounds move. Before the activation, the mean would
        be that of values which it cuts off. A channel that is seldom within them moves less.
        """
        if self.bias is None:
            return None
        products, wanted = [], []
        for part in parts:
            step = max(1, self.read.values.shape[2] // COMPARED)
            some = slice(part.start, part.stop, step)
            products.append(self._product(weight, self.read.values[:, :, some]))
            wanted.append(self.wanted[:, :, some])
        given, goal = torch.cat(products, 2), torch.cat(wanted, 2)
        low, high = self.bounds
        moves = (goal > low) & (goal < high)
        total = torch.zeros_like(self.bias)
        for _ in range(_NEWTON_STEPS):
            within = moves | ((given > low) & (given < high))
            error = (given.clamp(low, high) - goal).sum(2, keepdim=True)
            step_size = error / (within.sum(2, keepdim=True) + RARE * goal.shape[2])
            given -= step_size
            total -= step_size
            if self.bounds == UNBOUNDED:
                break
        return total

    def _product(self, weight: Tensor, columns: Tensor) -> Tensor:
        product = weight.float() @ columns
        return product if self.bias is None else product.add_(self.bias)


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
    wanted = (weight @ exact.values[:, :, ::step] + offset).clamp_(*bounds)
    power = wanted.var(2, correction=0)
    least = POWER_FLOOR * power.mean() + 1e-30
    errors = {}
    for name, scale in scales.items():
        given = weight @ form.fake_quantise(read, scale)
        given += offset
        error = (wanted - given.clamp_(*bounds)).square_().mean(2)
        errors[name] = float((error / (power + least)).sum())
    return errors


def fit(
    layer: Layer, weight: Array, problem: Problem, strengths: Sequence[Strength], form: Format
) -> Fitted:
    """Quantise the weight and correct the bias; see the module.

    Args:
        strengths: those to try, :data:`NEAREST` first.
    """
    rows = problem.rows
    folds: list[Moments] = []
    if rows.shape[2] > WIDEST:
        strengths = (NEAREST,)
    elif len(strengths) > 1:
        folds = moments_of(problem.exact, problem.read)
    strength, corrected = _best(problem, strengths, folds, form, layer.block)
    steps, codes = _quantised(problem, folds, strength, form, layer.block)
    offset = None
    if corrected:
        offset = problem.offset(codes * spread(steps, rows), problem.read.folds)
    bias = problem.bias if offset is None or problem.bias is None else problem.bias + offset
    return Fitted(
        weight=stored_weight(layer, codes, weight.shape, form),
        weight_scale=stored_scale(layer, steps),
        bias=None if bias is None else bias.flatten().numpy(),
        strength=strength,
        corrected=corrected,
    )


def _best(
    problem: Problem,
    strengths: Sequence[Strength],
    folds: Sequence[Moments],
    form: Format,
    block: int,
) -> tuple[Strength, bool]:
    """The strength with the least error on pictures that it was not fitted to, and whether to
    correct the bias."""
    parts = problem.read.folds
    if len(parts) < 2:
        return strengths[min(1, len(strengths) - 1)], True  # the weakest: nothing judges it
    best, least = (NEAREST, False), float("inf")
    for strength in strengths:
        plain, corrected = 0.0, 0.0
        for index, judge in enumerate(parts):
            others = [fold for other, fold in enumerate(folds) if other != index]
            steps, codes = _quantised(problem, others, strength, form, block)
            weight = codes * spread(steps, problem.rows)
            offset = problem.offset(weight, [part for part in parts if part is not judge])
            plain += problem.error(weight, None, judge)
            corrected += problem.error(weight, offset, judge)
        error = min(plain, corrected)
        if error > HOPELESS * least:
            break
        if error < least:
            best, least = (strength, corrected < plain), error
    return best


def _quantised(
    problem: Problem, folds: Sequence[Moments], strength: Strength, form: Format, block: int
) -> tuple[Tensor, Tensor]:
    """Steps 2 and 3: scales, see :func:`weight_scales`, and the codes of the fitted weight."""
    rows = problem.rows
    if not folds:
        steps = weight_scales(rows, torch.ones(len(rows), rows.shape[2]), form, block)
        return steps, form.round(rows / spread(steps, rows))
    moments = functools.reduce(operator.add, folds)
    gram, cross = moments.gram, moments.cross
    power = gram.diagonal(dim1=1, dim2=2)
    power = power + _LEAST_POWER * (power.mean(1, keepdim=True) + power.mean()) + 1e-30
    fitted = rows
    if strength.ridge is not None:
        damped = gram + torch.diag_embed(strength.ridge * power)
        fitted = rows - torch.linalg.solve(damped, (rows @ cross).transpose(1, 2)).transpose(1, 2)
    steps = weight_scales(fitted, power, form, block)
    each = spread(steps, rows)
    if strength.damping is None:
        return steps, form.round(fitted / each)
    return steps, compensated(fitted, each, gram + torch.diag_embed(strength.damping * power), form)
