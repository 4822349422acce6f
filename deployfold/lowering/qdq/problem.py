"""One layer as a matrix product on sampled columns, and the errors of its candidates."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, cat, ones_like, zeros_like

from .columns import Columns
from .formats import Format

POWER_FLOOR = 0.01
"""Share of the channels' mean variance that is added to each channel's variance, because a nearly
constant channel would otherwise dominate the error."""

_NEWTON_STEPS = 3
"""Steps of Newton's method, enough to bring the error of the mean below a hundredth."""

RARE = 0.01
"""A channel with outputs within the bounds for this share of the columns moves half as far."""

Bounds = tuple[float, float]
"""The bounds to which the activation behind a layer clips, such as ``(0, 6)`` for ReLU6."""

Curve = Callable[[Tensor], Tensor]
"""An activation without bounds that it clips to, such as a Sigmoid."""

_CHUNK = 4096
"""Number of columns with outputs in memory at a time."""

UNBOUNDED: Bounds = (-float("inf"), float("inf"))


@dataclass(frozen=True, eq=False)
class Problem:
    """One layer to fit.

    Attributes:
        rows: the fp32 weight as ``(groups, out / groups, width)``, see :func:`~.columns.rows_of`.
        bias: the fp32 bias, ``(groups, out / groups, 1)``; ``None`` for a layer without a bias.
        bounds: the bounds of the activation behind the layer.
        exact: the columns in fp32.
        read: the columns as the quantised layer reads them.
        curve: the activation behind the layer that has a curve.
        tokens: whether the columns are tokens. A transformer has a few tokens with outputs that are
            many times as large as those of the others, and the normalisation that follows divides
            each token by its own size. Therefore a token counts no more than one of median power.
    """

    rows: Tensor
    bias: Tensor | None
    bounds: Bounds
    exact: Columns
    read: Columns
    curve: Curve | None = None
    tokens: bool = False

    def quantised(self, scale: float, form: Format) -> Problem:
        """The problem with the read columns rounded to the format with one scale."""
        return dataclasses.replace(self, read=self.read.quantised(scale, form))

    @functools.cached_property
    def compared(self) -> tuple[Columns, Columns]:
        """Some of ``exact`` and of ``read``, on which candidates are compared."""
        return self.exact.thinned(), self.read.thinned()

    def errors(self, scales: Mapping[str, float], form: Format, part: slice) -> dict[str, float]:
        """The output error in ``part`` for each candidate scale of the input, by name.

        The error is the sum over the output channels of the mean squared error divided by the
        channel's variance. So a channel with outliers counts no more than another. Values beyond
        the bounds do not count as errors.
        """
        errors = {}
        for scale in set(scales.values()):  # below a bound, several names have the same
            read = form.fake_quantise(self.compared[1].values[:, :, part], scale)
            error = self._difference(self._product(self.rows, read), part).square_().mean(2)
            errors[scale] = float((error / self._variance).sum())
        return {name: errors[scale] for name, scale in scales.items()}

    @functools.cached_property
    def weights(self) -> Tensor | None:
        """How much the squared error of each column counts in a fit; ``None``: all alike."""
        if not self.tokens:
            return None
        values = self.exact.values
        starts = range(0, values.shape[2], _CHUNK)
        chunks = (values[:, :, start : start + _CHUNK] for start in starts)
        return _weights(cat([_power(self._product(self.rows, chunk)) for chunk in chunks]))

    @property
    def parts(self) -> tuple[slice, ...]:
        """The folds of the outputs."""
        return self.compared[0].folds

    @functools.cached_property
    def wanted(self) -> Tensor:
        """The fp32 outputs within the bounds, of the compared columns."""
        return self._product(self.rows, self.compared[0].values).clamp_(*self.bounds)

    def outputs(self, weight: Tensor) -> Tensor:
        """The outputs in front of the activation, of the compared columns.

        ``weight`` is in the shape of ``rows``.
        """
        return self._product(weight, self.compared[1].values)

    def error(self, outputs: Tensor, offset: Tensor | None, part: slice) -> float:
        """The squared error of ``outputs`` in ``part``, behind the activation.

        ``offset`` is an addition to the bias.
        """
        given = outputs[:, :, part] + (0.0 if offset is None else offset)
        power = _power(self._difference(given, part))
        if self.tokens:
            power *= _weights(_power(self.wanted))[part]
        return float(power.sum())

    def offset(self, outputs: Tensor, parts: Sequence[slice]) -> Tensor | None:
        """The addition to the bias that removes the mean error behind the activation.

        Newton's method finds the addition for ``parts`` of the outputs. Only outputs within the
        bounds move. The mean before the activation would include values that the activation cuts
        off. A channel that is seldom within the bounds moves less. A layer without a bias has no
        offset.
        """
        if self.bias is None:
            return None
        given = cat([outputs[:, :, part] for part in parts], 2)
        goal = cat([self.wanted[:, :, part] for part in parts], 2)
        low, high = self.bounds
        moves = (goal > low) & (goal < high)
        total = zeros_like(self.bias)
        for _ in range(_NEWTON_STEPS):
            within = moves | ((given > low) & (given < high))
            error = (given.clamp(low, high) - goal).sum(2, keepdim=True)
            step_size = error / (within.sum(2, keepdim=True) + RARE * goal.shape[2])
            given -= step_size
            total -= step_size
            if self.bounds == UNBOUNDED:
                break
        return total

    @functools.cached_property
    def _goal(self) -> Tensor:
        """The fp32 outputs behind the activation, of the compared columns."""
        return self.wanted if self.curve is None else self.curve(self.wanted)

    @functools.cached_property
    def _variance(self) -> Tensor:
        """The variance of each channel of the fp32 outputs, none of them near 0."""
        power = self._goal.var(2, correction=0)
        return power + (POWER_FLOOR * power.mean() + 1e-30)

    def _difference(self, given: Tensor, part: slice) -> Tensor:
        """The error of the outputs ``given`` in ``part``, behind the activation."""
        given = given.clamp_(*self.bounds)
        given = given if self.curve is None else self.curve(given)
        return given.sub_(self._goal[:, :, part])

    def _product(self, weight: Tensor, columns: Tensor) -> Tensor:
        product = weight @ columns
        return product if self.bias is None else product.add_(self.bias)


def _power(outputs: Tensor) -> Tensor:
    """The power of each column, ``(n,)``."""
    return outputs.square().sum((0, 1))


def _weights(power: Tensor) -> Tensor:
    """1 for a column of at most median power, and less for one of more."""
    usual = power[power > 0.0]
    return (usual.median() / power).clamp(max=1.0) if len(usual) else ones_like(power)
