"""How an operator ties the gauges of the tensors that it reads and writes.

The *gauge* of a tensor ``v`` is a change of it to ``scale * v + shift``, element by element. Each
of the two is a float64 tensor with the axes of ``v``, of size one along those that it does not vary
along. NaN is a number that is not determined, or that nobody asks for.

A :class:`Link` says of one output of an operator that it is

    sum over its inputs of  coefficient * route(input),  plus a constant,

where a route moves elements, or averages elements that have one gauge.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from .channels import (
    AVERAGES,
    CONCATENATIONS,
    MAXIMA,
    NotSeparable,
    averages_to_one,
    is_identity,
    moves,
    origins_of,
    reduced_axes,
)
from .graph import Op, Value

_HOMOGENEOUS = frozenset({"leaky_relu", "prelu", "relu"})
_SUMS = frozenset({"add", "rsub", "sub"})
_TOLERANCE = 1e-12
"""Relative; numbers that should be equal differ by rounding where shifts are added up."""


class Route(Protocol):
    """How the elements of one input come to be those of the output."""

    def down(self, gauge: Tensor, padding: float = torch.nan) -> Tensor:
        """The gauge of the output; NaN where it holds nothing of this input, and ``padding`` where
        that is the operator's own."""

    def up(self, gauge: Tensor) -> Tensor:
        """The gauge of the input; NaN where the output holds nothing of it."""


@dataclass(frozen=True, eq=False)
class Link:
    """One output as a sum over inputs.

    Attributes:
        inputs: each with its route and coefficient.
        constant: what is added to the sum: a number, or the tensor that it is.
        joins: every input fills a part of the output of its own, as in a concatenation.
        positive: a scale has to be positive to be carried through.
        shifts: whether a shift can be carried through.
    """

    output: Value
    inputs: tuple[tuple[Value, Route, float], ...]
    constant: float | Value = 0.0
    joins: bool = False
    positive: bool = False
    shifts: bool = True


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
        if _differ(flat[self._origin[known] - 1], wanted[known]):
            raise NotSeparable(f"{self.op.name} hands one element to several channels")
        return compact(flat.view(self.source.shape))


def links_of(op: Op) -> list[Link]:
    """What an operator makes of its inputs; nothing if no gauge can be carried through it."""
    try:
        return _links_of(op)
    except (NotSeparable, KeyError, RuntimeError):  # it cannot be run on other numbers
        return []


def _links_of(op: Op) -> list[Link]:
    name = op.name.rstrip("_")
    variable = [value for value in op.inputs if not value.constant]
    if len({*variable}) != len(variable) or not variable or not op.outputs:
        return []
    if name in CONCATENATIONS or name == "stack":
        return _joined(op, new=name == "stack")
    if name in _SUMS and len(op.outputs) == 1:
        return _summed(op, name)
    if name in {"matmul", "bmm", "scaled_dot_product_attention"}:
        return _attended(op, name)
    if len(variable) != 1:
        return []
    source, result = variable[0], op.output
    whole = Aligned(source, result)
    if is_identity(op):
        return [Link(result, ((source, whole, 1.0),))]
    if name == "neg":
        return [Link(result, ((source, whole, -1.0),))]
    if name in {"mul", "div"}:
        factor = op.arguments.get("other")
        if not isinstance(factor, (int, float)) or not factor or op.arguments.get("rounding_mode"):
            return []
        coefficient = float(factor) if name == "mul" else 1 / float(factor)
        return [Link(result, ((source, whole, coefficient),))]
    if name in _HOMOGENEOUS:
        return [Link(result, ((source, whole, 1.0),), positive=True, shifts=False)]
    if moves(op):
        routes = [Moved(op, source, output) for output in op.outputs]
        return [
            Link(route.result, ((source, route, 1.0),), shifts=not route.pads) for route in routes
        ]
    if op.name in AVERAGES or op.name in MAXIMA:
        return [_averaged(op, source)]
    return []


def _averaged(op: Op, source: Value) -> Link:
    axes, rank = reduced_axes(op, source), len(source.shape)
    kept = len(op.output.shape) == rank
    over = frozenset(axis - rank for axis in axes)
    route: Route = Aligned(source, op.output, over) if kept else Reduced(axes)
    highest = op.name in MAXIMA
    shifts = highest or averages_to_one(op)
    return Link(op.output, ((source, route, 1.0),), positive=highest, shifts=shifts)


def _joined(op: Op, *, new: bool) -> list[Link]:
    sources: list[Value] = op["tensors"]
    axis = op["dim"] % len(op.output.shape)
    parts, start = [], 0
    for source in sources:
        stop = start + (1 if new else source.shape[axis])
        parts.append((source, Part(axis, start, stop, op.output.shape[axis], new), 1.0))
        start = stop
    return [Link(op.output, tuple(parts), joins=True)]


def _summed(op: Op, name: str) -> list[Link]:
    alpha = op.arguments.get("alpha", 1)
    signs = {"self": 1.0, "other": float(alpha)}
    if name == "sub":
        signs["other"] *= -1
    if name == "rsub":
        signs = {"self": -float(alpha), "other": 1.0}
    constant: float | Value = 0.0
    inputs = []
    for key, sign in signs.items():
        item = op[key]
        if isinstance(item, Value) and not item.constant:
            inputs.append((item, Aligned(item, op.output), sign))
        elif isinstance(item, Value):
            if sign != 1:
                return []
            constant = item
        else:
            constant = sign * item
    return [Link(op.output, tuple(inputs), constant)]


def _attended(op: Op, name: str) -> list[Link]:
    """``weights @ values`` where the weights of each average add up to one."""
    if name == "scaled_dot_product_attention":
        value, plain = op["value"], op["attn_mask"] is None and not op["dropout_p"]
        if not plain or value.constant or value.shape[:-2] != op["query"].shape[:-2]:
            return []
        return [Link(op.output, ((value, Aligned(value, op.output, frozenset({-2})), 1.0),))]
    first, second = op.inputs
    if min(len(first.shape), len(second.shape)) < 2:
        return []
    for weights, values, axis in ((first, second, -2), (second, first, -1)):
        # The values are averaged over one of their last two axes, the weights over the other.
        if not values.constant and _adds_to_one(weights, -3 - axis):
            return [
                Link(op.output, ((values, Aligned(values, op.output, frozenset({axis})), 1.0),))
            ]
    return []


def _adds_to_one(value: Value, axis: int) -> bool:
    """Whether the elements along ``axis``, counted from the end, are a softmax's."""
    op = value.producer
    while op is not None:
        if op.name in {"softmax", "_softmax"}:
            return int(op["dim"]) % len(value.shape) - len(value.shape) == axis
        source = op.inputs[0]
        if op.name == "transpose" and {
            op["dim0"] % len(value.shape),
            op["dim1"] % len(value.shape),
        } == {
            len(value.shape) - 1,
            len(value.shape) - 2,
        }:
            axis = -3 - axis
        elif op.name in {"reshape", "view", "flatten", "expand", "unsqueeze", "squeeze"}:
            if axis != -1 or source.shape[-2:] != value.shape[-2:]:
                return False
        elif not is_identity(op) and op.name not in {"contiguous", "clone"}:
            return False
        value, op = source, source.producer
    return False


def unify(gauge: Tensor, axes: frozenset[int]) -> Tensor:
    """One number along each of ``axes``.

    Raises:
        NotSeparable: they differ.
    """
    for axis in axes:
        if gauge.shape[axis] == 1:
            continue
        unknown = gauge.isnan()
        low = gauge.masked_fill(unknown, torch.inf).amin(axis, keepdim=True)
        high = gauge.masked_fill(unknown, -torch.inf).amax(axis, keepdim=True)
        if bool((high - low > _TOLERANCE * high.abs().clamp(min=1)).any()):
            raise NotSeparable("its elements would have to be changed in different ways")
        gauge = low.masked_fill(low.isinf(), torch.nan)
    return gauge


def compact(gauge: Tensor) -> Tensor:
    """The same numbers, of size one along every axis that they do not vary along."""
    for axis, size in enumerate(gauge.shape):
        if size == 1:
            continue
        first = gauge.narrow(axis, 0, 1)
        same = gauge == first
        if not bool(same.all()):
            same |= gauge.isnan() & first.isnan()
            if not bool(same.all()):
                continue
        gauge = first
    return gauge


def merge(known: Tensor, more: Tensor) -> Tensor:
    """Both together.

    Raises:
        NotSeparable: they contradict each other.
    """
    if _differ(known, more):
        raise NotSeparable("its readers would have to change it in different ways")
    return compact(torch.where(known.isnan(), more, known))


def _differ(first: Tensor, second: Tensor) -> bool:
    return bool(((first - second).abs() > _TOLERANCE * first.abs().clamp(min=1)).any())
