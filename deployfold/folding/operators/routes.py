"""Routes: how an operator moves or averages the elements of one input into its output.

A route carries partly known tensors (:mod:`.partial`) from the input to the output, and back.
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

_PADDED = "a shift would change the zero padding"


class Route(Protocol):
    """The interface of a route from one input of an operator to one output."""

    @property
    def averaged(self) -> frozenset[int]:
        """The averaged axes of the input, counted from the end."""

    @property
    def pads(self) -> bool:
        """Whether the output contains padding."""

    def down(self, numbers: Tensor, padding: float = torch.nan) -> Tensor:
        """Carry the numbers of the input to the output.

        The result is NaN where the output holds no element of this input, and ``padding`` where the
        output holds padding of the operator.
        """

    def up(self, numbers: Tensor, padding: float = torch.nan) -> Tensor:
        """Carry the numbers of the output back to the input.

        The result is NaN at each input element that the output does not hold.

        Raises:
            NotSeparable: the padding of the output would need another number than ``padding``, or
                two copies of one element would need different numbers.
        """


@dataclass(frozen=True, eq=False)
class Aligned:
    """A route whose elements keep their positions, are broadcast, or are averaged along ``over``.

    ``over`` counts axes from the end. These axes may have other sizes in the output.
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
    """A route that averages elements along ``axes`` and drops these axes from the output."""

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
    """A route into one part of a concatenation: the slice from ``start`` to ``stop`` of ``axis``.

    If ``new`` is true, only the output has the axis, as in ``stack``.
    """

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
    """A route whose output elements are copies of input elements, or zero padding.

    The code does not list the movements of each operator. The operator runs once on a tensor that
    holds its own element numbers, and the result shows the origin of each output element.
    """

    op: Op
    source: Value
    result: Value
    averaged = frozenset[int]()

    @cached_property
    def origin(self) -> Tensor:
        """The number, from 1, of the input element in each output element; 0 for padding."""
        return dict(_origins(self.op, self.source))[self.result]

    @cached_property
    def pads(self) -> bool:
        """Whether the output contains padding."""
        return bool((self.origin <= 0).any())

    def down(self, numbers: Tensor, padding: float = torch.nan) -> Tensor:
        flat = numbers.expand(self.source.shape).flatten()
        places = (self.origin - 1).flatten()
        moved = flat.index_select(0, places.clamp(min=0)).masked_fill(places < 0, padding)
        moved = compact(moved.view(self.result.shape))
        shifted = self.pads and not math.isnan(padding)
        if shifted and sum(size > 1 for size in moved.shape) > 1:
            raise NotSeparable(_PADDED)
        return moved

    def up(self, numbers: Tensor, padding: float = torch.nan) -> Tensor:
        wanted, places = numbers.expand(self.result.shape).flatten(), self.origin.flatten() - 1
        if self.pads:
            inside = places >= 0
            outside = wanted[~inside]
            if not math.isnan(padding) and bool(((outside != padding) & ~outside.isnan()).any()):
                raise NotSeparable(_PADDED)
            wanted, places = wanted[inside], places[inside]
        if bool(numbers.isnan().any()):
            known = ~wanted.isnan()
            wanted, places = wanted[known], places[known]
        flat = wanted.new_full((torch.Size(self.source.shape).numel(),), torch.nan)
        flat.scatter_(0, places, wanted)  # many times as fast as assignment by index
        if differ(flat.index_select(0, places), wanted):
            raise NotSeparable(f"{self.op.name} copies one element to several channels")
        return compact(flat.view(self.source.shape))


def _origins(op: Op, source: Value) -> list[tuple[Value, Tensor]]:
    if op.function is None:  # an alias found by its storage
        raise NotSeparable("another view of its storage reads it")
    if op.arguments.get("value"):
        raise NotSeparable("the padding is a constant other than zero")
    # float64 holds integers up to 2**53 exactly, and every data-moving operator supports float64.
    size = torch.Size(source.shape).numel()
    numbered = torch.arange(1, size + 1, dtype=torch.float64).view(source.shape)
    known = {source: numbered}
    for value in op.inputs:
        if value is not source:
            stored = number_of(value)
            if stored is None:
                raise NotSeparable("the indices are not stored in the model")
            known[value] = stored
    results = op.rerun(known)
    outputs = results if isinstance(results, (list, tuple)) else [results]
    return [(value, result.long()) for value, result in zip(op.outputs, outputs, strict=True)]
