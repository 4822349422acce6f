"""Links: how channel-wise affine maps pass from the inputs of an operator to its outputs.

A :class:`Link` writes one output of an operator as

    sum over its inputs of  coefficient * route(input),  plus a constant,

where a route (:mod:`.routes`) moves elements, or averages elements that change alike. Each function
here builds the links of one kind of operator; :mod:`.table` assigns a function to each operator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from deployfold.folding.graph.constants import number_of
from deployfold.folding.graph.graph import Op, Value

from .partial import NotSeparable
from .routes import Aligned, Moved, Part, Reduced, Route

Coefficient = float | Tensor
"""A number, or a partly known tensor of the output, such as one number for each channel."""

_UNEVEN = "the weights of the sum do not add up to one, so no shift passes"
_RECTIFIER = "the operator passes only a positive scale, and no shift"
NEVER_SHIFTED = "no change of its input shifts the result of the operator"
_NEGATIVE = "a negative scale would turn the maximum into a minimum"


@dataclass(frozen=True, eq=False)
class Link:
    """One output of an operator, written as a weighted sum over its inputs plus a constant.

    Attributes:
        inputs: each input with its route and coefficient.
        constant: the constant that the operator adds to the sum: a number, or a constant tensor.
        sign: the factor of a constant tensor.
        positive: the reason why the operator needs a positive scale; empty if any scale passes.
        no_shift: the reason why a shift cannot pass the operator; empty if a shift can.
        drops_shift: a shift of the input does not change the output.
    """

    output: Value
    inputs: tuple[tuple[Value, Route, Coefficient], ...]
    constant: float | Value = 0.0
    sign: float = 1.0
    positive: str = ""
    no_shift: str = ""
    drops_shift: bool = False

    @property
    def ends(self) -> tuple[Value, ...]:
        """The output and all inputs."""
        return (self.output, *(source for source, _, _ in self.inputs))

    @property
    def parts(self) -> list[tuple[Value, Part]]:
        """The inputs of a concatenation, each with its own part of the output; else empty."""
        return [(source, route) for source, route, _ in self.inputs if isinstance(route, Part)]

    @property
    def sums(self) -> bool:
        """Whether the operator adds several inputs, so that any one of them may take a shift."""
        return len(self.inputs) > 1 and not self.parts

    def constant_numbers(self) -> Tensor:
        """The constant as a partly known tensor of the output.

        Raises:
            NotSeparable: the constant is unknown before the model runs.
        """
        if not isinstance(self.constant, Value):
            return torch.full([1] * len(self.output.shape), self.constant, dtype=torch.float64)
        number = number_of(self.constant)
        if number is None:
            raise NotSeparable("the added tensor is not stored in the model")
        return Aligned(self.constant, self.output).down(number.double()) * self.sign


Builder = Callable[[Op], list[Link]]


def passes(op: Op) -> list[Link]:
    """Links for operators whose output equals the input, such as dropout in evaluation mode."""
    if op.arguments.get("train", False):
        raise NotSeparable("the operator drops elements at random")
    source = single(op)
    return [Link(op.output, ((source, Aligned(source, op.output), 1.0),))]


def moves(op: Op) -> list[Link]:
    """Links for operators whose output elements are copies of input elements, or zero padding."""
    source = single(op)
    return [Link(result, ((source, Moved(op, source, result), 1.0),)) for result in op.outputs]


def moves_by_index(op: Op) -> list[Link]:
    """Links for operators that copy the input elements chosen by a stored tensor of integers."""
    return moves(op)


def negates(op: Op) -> list[Link]:
    """Links for the negation ``-x``."""
    source = single(op)
    return [Link(op.output, ((source, Aligned(source, op.output), -1.0),))]


def multiplies(op: Op) -> list[Link]:
    """Links for ``x * factor`` and ``x / factor``; the factor is known, finite and nowhere zero."""
    if len(op.variable) > 1:
        raise NotSeparable("its factors both depend on the input, so no shift passes")
    source = single(op)
    name = op.name.rstrip("_")
    if op.arguments.get("rounding_mode"):
        raise NotSeparable("it rounds")
    if source.shape != op.output.shape or (name == "div" and op["self"] is not source):
        raise NotSeparable("the operator is not linear in its input")
    other = op["other"] if op["self"] is source else op["self"]
    if isinstance(other, Value):
        stored = number_of(other)
        if stored is None:
            raise NotSeparable("the factor is not stored in the model")
        factor = Aligned(other, op.output).down(stored.double())
    else:
        factor = torch.full([1] * len(source.shape), float(other), dtype=torch.float64)
    return scaled(op, source, factor, inverse=name == "div")


def scaled(op: Op, source: Value, factor: Tensor, *, inverse: bool = False) -> list[Link]:
    """The link of a product with ``factor``, a partly known tensor of the output.

    Raises:
        NotSeparable: a factor is zero or not finite.
    """
    if not bool((factor.isfinite() & (factor != 0)).all()):
        raise NotSeparable("a factor is zero or not finite")
    factor = 1 / factor if inverse else factor
    coefficient: Coefficient = float(factor) if factor.numel() == 1 else factor
    return [Link(op.output, ((source, Aligned(source, op.output), coefficient),))]


def rectifies(op: Op) -> list[Link]:
    """Links for activations with ``f(s * x) = s * f(x)`` for every positive ``s``, such as ReLU."""
    source = single(op)
    given = op.arguments
    bounds = (given.get("min"), given.get("threshold"), given.get("value"))
    if given.get("training") or given.get("max") is not None or any(bounds):
        raise NotSeparable("no channel-wise map passes this operator with its arguments")
    return [
        Link(
            op.output,
            ((source, Aligned(source, op.output), 1.0),),
            positive=_RECTIFIER,
            no_shift=_RECTIFIER,
        )
    ]


@dataclass(frozen=True)
class Reduction:
    """A builder of links for weighted averages or maxima over the last ``spatial`` axes.

    If ``spatial`` is 0, the operator's ``dim`` argument gives the axes.
    """

    spatial: int
    maximum: bool = False

    def __call__(self, op: Op) -> list[Link]:
        """The link of one averaging or maximum operator."""
        source = single(op)
        rank = len(source.shape)
        axes = frozenset(range(rank - self.spatial, rank)) if self.spatial else _given_axes(op)
        kept = len(op.output.shape) == rank
        over = frozenset(axis - rank for axis in axes)
        route: Route = Aligned(source, op.output, over) if kept else Reduced(axes, rank)
        plain = self.maximum or _weights_add_to_one(op)
        return [
            Link(
                op.output,
                ((source, route, 1.0),),
                positive=_NEGATIVE if self.maximum else "",
                no_shift="" if plain else _UNEVEN,
            )
        ]


def deviates(op: Op) -> list[Link]:
    """The link of a standard deviation, which a shift leaves and a scale multiplies."""
    (link,) = Reduction(0)(op)
    return [replace(link, positive="a standard deviation keeps no sign", drops_shift=True)]


def joins(op: Op) -> list[Link]:
    """Links for concatenations; ``stack`` joins tensors along a new axis."""
    new = op.name == "stack"
    sources: list[Value] = op["tensors"]
    variable = [source for source in sources if not source.constant]
    if len({*variable}) != len(variable):
        raise NotSeparable("the operator reads one tensor twice")
    axis = op["dim"] % len(op.output.shape)
    parts: list[tuple[Value, Route, Coefficient]] = []
    start = 0
    for source in sources:
        stop = start + (1 if new else source.shape[axis])
        parts.append((source, Part(axis, start, stop, op.output.shape[axis], new), 1.0))
        start = stop
    return [Link(op.output, tuple(parts))]


def adds(op: Op) -> list[Link]:
    """Links for sums and differences of two tensors, or of a tensor and a constant."""
    name = op.name.rstrip("_")
    alpha = float(op.arguments.get("alpha", 1))
    signs = {"self": 1.0, "other": -alpha if name == "sub" else alpha}
    if name == "rsub":
        signs = {"self": -alpha, "other": 1.0}
    if op["self"] is op["other"]:
        raise NotSeparable("the operator reads one tensor twice")
    constant: float | Value = 0.0
    constant_sign = 1.0
    inputs: list[tuple[Value, Route, Coefficient]] = []
    for key, sign in signs.items():
        item = op[key]
        if isinstance(item, Value) and not item.constant:
            inputs.append((item, Aligned(item, op.output), sign))
        elif isinstance(item, Value):
            constant, constant_sign = item, sign
        else:
            constant = sign * item
    if not inputs:
        raise NotSeparable("all its inputs are constants")
    return [Link(op.output, tuple(inputs), constant, constant_sign)]


def single(op: Op) -> Value:
    """The one input of an operator that depends on the model's input.

    Raises:
        NotSeparable: several inputs or none depend on it, or the operator has no output.
    """
    if len(op.variable) != 1 or not op.outputs:
        raise NotSeparable("the operator reads several tensors that depend on the input")
    return op.variable[0]


def _given_axes(op: Op) -> frozenset[int]:
    rank = len(single(op).shape)
    given = op.arguments.get("dim")
    if "other" in op.arguments:
        raise NotSeparable("it compares two tensors")
    if given is None or given == []:
        raise NotSeparable(f"{op.name} is taken over every axis")
    return frozenset(axis % rank for axis in ([given] if isinstance(given, int) else given))


def _weights_add_to_one(op: Op) -> bool:
    """Whether the weights of an averaging operator sum to one for every output element."""
    if not op.name.startswith("avg_pool"):
        return op.name != "sum"
    padding = op["padding"]
    padded = bool(padding) if isinstance(padding, int) else any(padding)
    if op.arguments.get("divisor_override") is not None:
        return False
    if op["ceil_mode"] and padded:
        return False
    return not (padded and op["count_include_pad"])
