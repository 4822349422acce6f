"""How an operator ties the gauges (:mod:`.gauges`) of the tensors that it reads and writes.

A :class:`Link` says of one output of an operator that it is

    sum over its inputs of  coefficient * route(input),  plus a constant,

where a route (:mod:`.routes`) moves elements, or averages elements that have one gauge.
"""

from __future__ import annotations

from dataclasses import dataclass

from deployfold.folding.graph.graph import Op, Value

from .channels import (
    AVERAGES,
    CONCATENATIONS,
    MAXIMA,
    NotSeparable,
    averages_to_one,
    is_identity,
    moves,
    reduced_axes,
)
from .routes import Aligned, Moved, Part, Reduced, Route

_HOMOGENEOUS = frozenset({"leaky_relu", "prelu", "relu"})
_SUMS = frozenset({"add", "rsub", "sub"})


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
