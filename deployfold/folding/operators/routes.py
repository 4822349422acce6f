"""How the elements of one input of an operator come to be those of its output.

A route carries a gauge (:mod:`.gauges`) from the one to the other, and back.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from deployfold.folding.graph.graph import Op, Value

from .channels import NotSeparable, origins_of
from .gauges import compact, differ, unify


class Route(Protocol):
    """How the elements of one input come to be those of the output."""

    def down(self, gauge: Tensor, padding: float = torch.nan) -> Tensor:
        """The gauge of the output; NaN where it holds nothing of this input, and ``padding`` where
        that is the operator's own."""

    def up(self, gauge: Tensor) -> Tensor:
        """The gauge of the input; NaN where the output holds nothing of it."""


@dataclass(frozen=True, eq=False)
class Aligned:
    """Elements stay where they are, are broadcast, or averaged along the axes ``over``, which are
    counted from the end and may have other sizes in the output."""

    source: Value
    result: Value
    over: frozenset[int] = frozenset()

    def down(self, gauge: Tensor, padding: float = torch.nan) -> Tensor:
        gauge = unify(gauge, self.over)
        return gauge.reshape([1] * (len(self.result.shape) - gauge.dim()) + list(gauge.shape))

    def up(self, gauge: Tensor) -> Tensor:
        rank = len(self.source.shape)
        single = {axis - rank for axis, size in enumerate(self.source.shape) if size == 1}
        lead = set(range(-gauge.dim(), -rank))
        gauge = unify(gauge, self.over | single | lead)
        return gauge.reshape(gauge.shape[gauge.dim() - rank :])


@dataclass(frozen=True, eq=False)
class Reduced:
    """Elements are averaged along ``axes``, which the output does not have."""

    axes: frozenset[int]

    def down(self, gauge: Tensor, padding: float = torch.nan) -> Tensor:
        gauge = unify(gauge, self.axes)
        return gauge.reshape(
            [size for axis, size in enumerate(gauge.shape) if axis not in self.axes]
        )

    def up(self, gauge: Tensor) -> Tensor:
        for axis in sorted(self.axes):
            gauge = gauge.unsqueeze(axis)
        return gauge


@dataclass(frozen=True, eq=False)
class Part:
    """The input is the slice from ``start`` to ``stop`` of ``axis``, or (``new``) lies on an axis
    that only the output has."""

    axis: int
    start: int
    stop: int
    total: int
    new: bool

    def down(self, gauge: Tensor, padding: float = torch.nan) -> Tensor:
        gauge = gauge.unsqueeze(self.axis) if self.new else gauge
        shape = list(gauge.shape)
        shape[self.axis] = self.total
        whole = gauge.new_full(shape, torch.nan)
        whole.narrow(self.axis, self.start, self.stop - self.start).copy_(gauge)
        return whole

    def up(self, gauge: Tensor) -> Tensor:
        if gauge.shape[self.axis] > 1:
            gauge = gauge.narrow(self.axis, self.start, self.stop - self.start)
        return gauge.squeeze(self.axis) if self.new else gauge


@dataclass(frozen=True, eq=False)
class Moved:
    """Every element of the output is a copy of one of the input, or padding, which is zero."""

    op: Op
    source: Value
    result: Value

    @cached_property
    def _origin(self) -> Tensor:
        return dict(origins_of(self.op, self.source))[self.result]

    @cached_property
    def pads(self) -> bool:
        """Whether some of the output is padding, which would have to get a shift as well."""
        return bool((self._origin <= 0).any())

    def down(self, gauge: Tensor, padding: float = torch.nan) -> Tensor:
        flat = gauge.expand(self.source.shape).flatten()
        moved = flat[(self._origin - 1).clamp(min=0)]
        return compact(moved.masked_fill(self._origin <= 0, padding))

    def up(self, gauge: Tensor) -> Tensor:
        wanted = gauge.expand(self.result.shape)
        inside = self._origin > 0
        flat = wanted.new_full((torch.Size(self.source.shape).numel(),), torch.nan)
        known = inside & ~wanted.isnan()
        flat[self._origin[known] - 1] = wanted[known]
        if differ(flat[self._origin[known] - 1], wanted[known]):
            raise NotSeparable(f"{self.op.name} hands one element to several channels")
        return compact(flat.view(self.source.shape))
