"""How the elements of one input of an operator come to be those of its output.

A route carries partly known tensors (:mod:`.partial`) from the one to the other, and back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from deployfold.folding.graph.constants import number_of
from deployfold.folding.graph.graph import Op, Value

from .partial import NotSeparable, compact, constant_along, differ

_PADDED = "zero padding lies between, and the shift would change the padding"


class Route(Protocol):
    """How the elements of one input come to be those of the output."""

    @property
    def averaged(self) -> frozenset[int]:
        """The axes, counted from the end of the input's, along which elements are averaged."""

    @property
    def pads(self) -> bool:
        """Whether some of the output is padding."""

    def down(self, numbers: Tensor, padding: float = torch.nan) -> Tensor:
        """What is known of the output from what is known of the input.

        NaN where the output holds nothing of this input, and ``padding`` where it holds the
        operator's own padding.
        """

    def up(self, numbers: Tensor, padding: float = torch.nan) -> Tensor:
        """What is known of the input from what is known of the output.

        NaN where the output holds nothing of the input.

        Raises:
            NotSeparable: the output's padding would have to be another number than ``padding``, or
                two copies of one element would have to differ.
        """


@dataclass(frozen=True, eq=False)
class Aligned:
    """Elements stay where they are, are broadcast, or averaged along the axes ``over``.

    ``over`` counts axes from the end; they may have other sizes in the output.
    """

    source: Value
    result: Value
    over: frozenset[int] = frozenset()
    pads = False

    @property
    def averaged(self) -> frozenset[int]:
        return self.over

    def down(self, numbers: Tensor, padding: float = torch.nan) -> Tensor:
        numbers = constant_along(numbers, self.over)
        return numbers.reshape([1] * (len(self.result.shape) - numbers.dim()) + [*numbers.shape])

    def up(self, numbers: Tensor, padding: float = torch.nan) -> Tensor:
        rank = len(self.source.shape)
        single = {axis - rank for axis, size in enumerate(self.source.shape) if size == 1}
        lead = set(range(-numbers.dim(), -rank))
        numbers = constant_along(numbers, self.over | single | lead)
        return numbers.reshape(numbers.shape[numbers.dim() - rank :])


@dataclass(frozen=True, eq=False)
class Reduced:
    """Elements are averaged along ``axes``, which the output does not have."""

    axes: frozenset[int]
    rank: int
    pads = False

    @property
    def averaged(self) -> frozenset[int]:
        return frozenset(axis - self.rank for axis in self.axes)

    def down(self, numbers: Tensor, padding: float = torch.nan) -> Tensor:
        numbers = constant_along(numbers, self.axes)
        return numbers.reshape(
            [size for axis, size in enumerate(numbers.shape) if axis not in self.axes]
        )

    def up(self, numbers: Tensor, padding: float = torch.nan) -> Tensor:
        for axis in sorted(self.axes):
            numbers = numbers.unsqueeze(axis)
        return numbers


@dataclass(frozen=True, eq=False)
class Part:
    """The input is the slice from ``start`` to ``stop`` of ``axis``, or (``new``) lies on an axis
    that only the output has."""

    axis: int
    start: int
    stop: int
    total: int
    new: bool
    averaged = frozenset[int]()
    pads = False

    def down(self, numbers: Tensor, padding: float = torch.nan) -> Tensor:
        numbers = numbers.unsqueeze(self.axis) if self.new else numbers
        shape = list(numbers.shape)
        shape[self.axis] = self.total
        whole = numbers.new_full(shape, torch.nan)
        whole.narrow(self.axis, self.start, self.stop - self.start).copy_(numbers)
        return whole

    def up(self, numbers: Tensor, padding: float = torch.nan) -> Tensor:
        if numbers.shape[self.axis] > 1:
            numbers = numbers.narrow(self.axis, self.start, self.stop - self.start)
        return numbers.squeeze(self.axis) if self.new else numbers


@dataclass(frozen=True, eq=False)
class Moved:
    """Every element of the output is a copy of one of the input, or padding, which is zero.

    How an operator moves data is not written down operator by operator. The operator runs once on
    a tensor that holds its own element numbers, and the result shows where each element went.
    """

    op: Op
    source: Value
    result: Value
    averaged = frozenset[int]()

    @cached_property
    def origin(self) -> Tensor:
        """For each element of the output, the number (from 1) of its element of the input."""
        return dict(_origins(self.op, self.source))[self.result]

    @cached_property
    def pads(self) -> bool:
        """Whether some of the output is padding."""
        return bool((self.origin <= 0).any())

    def down(self, numbers: Tensor, padding: float = torch.nan) -> Tensor:
        flat = numbers.expand(self.source.shape).flatten()
        moved = compact(flat[(self.origin - 1).clamp(min=0)].masked_fill(self.origin <= 0, padding))
        shifted = self.pads and not math.isnan(padding)
        if shifted and sum(size > 1 for size in moved.shape) > 1:
            raise NotSeparable(_PADDED)
        return moved

    def up(self, numbers: Tensor, padding: float = torch.nan) -> Tensor:
        wanted = numbers.expand(self.result.shape)
        inside = self.origin > 0
        outside = wanted[~inside]
        if not math.isnan(padding) and bool(((outside != padding) & ~outside.isnan()).any()):
            raise NotSeparable(_PADDED)
        flat = wanted.new_full((torch.Size(self.source.shape).numel(),), torch.nan)
        known = inside & ~wanted.isnan()
        flat[self.origin[known] - 1] = wanted[known]
        if differ(flat[self.origin[known] - 1], wanted[known]):
            raise NotSeparable(f"{self.op.name} hands one element to several channels")
        return compact(flat.view(self.source.shape))


def _origins(op: Op, source: Value) -> list[tuple[Value, Tensor]]:
    if op.function is None:  # an alias found by its storage
        raise NotSeparable("it is read through another view of its storage")
    if op.arguments.get("value"):
        raise NotSeparable("it is padded with a constant other than zero")
    # float64 counts exactly to 2**53, and every data-moving operator supports it.
    size = torch.Size(source.shape).numel()
    numbered = torch.arange(1, size + 1, dtype=torch.float64).view(source.shape)
    known = {source: numbered}
    for value in op.inputs:
        if value is not source:
            stored = number_of(value)
            if stored is None:
                raise NotSeparable("its indices are not stored in the model")
            known[value] = stored
    results = op.rerun(known)
    outputs = results if isinstance(results, (list, tuple)) else [results]
    return [(value, result.long()) for value, result in zip(op.outputs, outputs, strict=True)]
