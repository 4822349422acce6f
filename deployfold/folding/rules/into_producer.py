"""Folding a map into the layers that produce its input (rules 1, 2 and 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deployfold.folding.algebra import Affine
from deployfold.folding.graph.graph import Op, Value
from deployfold.folding.graph.layers import Layer, channel_axis, is_layer
from deployfold.folding.graph.unit import Unit
from deployfold.folding.operators.channels import (
    AVERAGES,
    CONCATENATIONS,
    MAXIMA,
    Channels,
    NotSeparable,
    averages_to_one,
    axis_before,
    is_identity,
    move_up,
    moves,
    reduced_axes,
)

from .context import CannotFold, Context, Request, describe


@dataclass(frozen=True, eq=False)
class IntoProducers:
    """``affine(layer(x))`` becomes ``layer'(x)``.

    Applies where, for every place the unit runs:

    1. its input has no other reader, is not a model output, and no forward hook sees it;
    2. following the input upwards there are only operators that a per-channel affine map can be
       carried through: those that move data, factors that are known, averages whose weights add
       up to one, maxima where no scale is negative, sums (the scale goes to every summand, the
       shift to one) and concatenations;
    3. every path ends at a convolution, transposed convolution, linear layer (by any name: see
       :mod:`.layers`) or another unit whose channels are those of the map;
    4. that layer's weight and bias are stored tensors that nothing else uses, and a layer that
       runs at several places is asked for the same thing at each of them.
    """

    name: str = "into the producer"

    def propose(self, unit: Unit, context: Context) -> list[Request]:
        """What has to be asked of which layers for ``unit`` to go.

        Raises:
            CannotFold: the rule does not apply.
        """
        assert unit.affine is not None
        requests: list[Request] = []
        for site in unit.sites:
            source = site.inputs[0]
            channels = Channels.of_axis(source, unit.channel_axis(source))
            requests += _absorb(context, source, site, channels, unit.affine)
        return context.agree(requests)


def _absorb(
    context: Context, value: Value, reader: Op, channels: Channels, affine: Affine
) -> list[Request]:
    op = value.producer
    if op is None:
        raise CannotFold("it normalises the model's input" if not value.constant else "constant")
    others = [consumer for consumer in value.consumers if consumer is not reader]
    if others:
        raise CannotFold(f"its input {describe(op)} also feeds {describe(others[0])}")
    if value.consumers.count(reader) > 1:
        raise CannotFold(f"{describe(reader)} reads {describe(op)} twice")
    if value.output:
        raise CannotFold(f"its input {describe(op)} is also an output of the model")
    context.check_unobserved(value)

    unit = context.unit_at(op)
    if unit is not None:
        return [_ask_unit(unit, op, value, channels, affine)]
    if is_layer(op):
        return [_ask_layer(context, op, value, channels, affine)]
    if op.name.rstrip("_") in {"add", "sub"}:
        return _through_sum(context, op, channels, affine)
    if op.name in CONCATENATIONS:
        return _through_concatenation(context, op, channels, affine)
    return _through_single(context, op, value, channels, affine)


def _ask_layer(
    context: Context, op: Op, value: Value, channels: Channels, affine: Affine
) -> Request:
    context.layer(op)  # raises if it cannot be rewritten
    if channels.axis != channel_axis(op, value):
        raise CannotFold(f"it normalises another axis than the outputs of {describe(op)}")
    return Request(op, affine.take(channels.index), after=True)


def _ask_unit(unit: Unit, op: Op, value: Value, channels: Channels, affine: Affine) -> Request:
    if unit.reason is not None or unit.affine is None or not unit.editable:
        raise CannotFold(f"{unit.name}, which comes before it, cannot take it up")
    if channels.axis != unit.channel_axis(value):
        raise CannotFold(f"it normalises another axis than {unit.name}")
    return Request(op, affine.take(channels.index), after=True)


def _through_single(
    context: Context, op: Op, value: Value, channels: Channels, affine: Affine
) -> list[Request]:
    variable = [source for source in op.inputs if not source.constant]
    if len(variable) != 1:
        raise CannotFold(f"{describe(op)} lies between it and the layers before it")
    source = variable[0]
    if is_identity(op):
        return _absorb(context, source, op, channels, affine)
    factor = _factor(context, op, source, channels.axis)
    if factor is not None:
        rows = affine.take(channels.index)  # the factor may be another one at every position
        inner = Affine(rows.scale, rows.shift / factor, affine.constant)
        return _absorb(context, source, op, Channels.of_axis(source, channels.axis), inner)
    try:
        if moves(op):
            moved = move_up(op, source, value, channels, shifts=affine.has_shift)
        elif op.name in AVERAGES or op.name in MAXIMA:
            removed = reduced_axes(op, source)
            axis = axis_before(channels.axis, removed, op, len(source.shape))
            if axis in removed:
                raise NotSeparable("it works across the channels")
            check_reduction(op, affine)
            moved = Channels(axis, channels.index)
        else:
            raise NotSeparable("no per-channel map can be carried through it")
    except NotSeparable as reason:
        raise CannotFold(f"{describe(op)} lies before it: {reason}") from reason
    return _absorb(context, source, op, moved, affine)


def check_reduction(op: Op, affine: Affine) -> None:
    """Refuse an average or a maximum that ``affine`` cannot be carried through.

    Raises:
        NotSeparable: with the reason.
    """
    if op.name in AVERAGES and affine.has_shift and not averages_to_one(op):
        raise NotSeparable("it averages padding in, and the shift would change that")
    if op.name in MAXIMA and bool((affine.scale < 0).any()):
        raise NotSeparable("a negative scale turns its maximum into a minimum")


def _factor(context: Context, op: Op, source: Value, axis: int) -> Tensor | None:
    """What the operator multiplies every position on ``axis`` by, if that is all it does.

    Raises:
        CannotFold: it is not known, is zero somewhere, or varies along other axes.
    """
    name = op.name.rstrip("_")
    if name not in {"mul", "div"} or op.arguments.get("rounding_mode"):
        return None
    if source.shape != op.output.shape or (name == "div" and op["self"] is not source):
        return None
    other = op["other"] if op["self"] is source else op["self"]
    number = context.number(other) if isinstance(other, Value) else other
    factor = torch.as_tensor(number, dtype=torch.float64)
    factor = factor.reshape([1] * (len(source.shape) - factor.dim()) + [*factor.shape])
    if factor.numel() != factor.shape[axis] or not bool((factor.isfinite() & (factor != 0)).all()):
        raise CannotFold(f"{describe(op)} does not scale every channel")
    factor = factor.flatten().expand(source.shape[axis])
    return factor if name == "mul" else 1 / factor


def _through_concatenation(
    context: Context, op: Op, channels: Channels, affine: Affine
) -> list[Request]:
    sources: list[Value] = op["tensors"]
    axis = op["dim"] % len(op.output.shape)
    requests, start = [], 0
    for source in sources:
        part = channels
        if axis == channels.axis:
            stop = start + source.shape[axis]
            part = Channels(axis, channels.index[start:stop])
            start = stop
        if source.constant:
            raise CannotFold(f"{describe(op)} joins a constant in")
        requests += _absorb(context, source, op, part, affine)
    return requests


def _through_sum(context: Context, op: Op, channels: Channels, affine: Affine) -> list[Request]:
    summands = _summands(op)
    raw: list[Value] = []
    requests: list[Request] = []
    for position, source in enumerate(summands):
        part = affine if position == 0 else affine.without_shift()
        try:
            requests += _absorb(context, source, op, channels, part)
        except CannotFold:
            # A bare copy of some layer's input can be made up for in that layer's weight.
            if position == 0 or not _feeds_a_summand(source, summands):
                raise
            raw.append(source)
    for source in raw:
        requests = _make_up_for(source, requests, context, op, channels, affine)
    return requests


def _summands(op: Op) -> list[Value]:
    """The operands of a sum of tensors of one shape, the one that takes the shift first."""
    sources = [op["self"], op["other"]]
    if op.arguments.get("alpha", 1) != 1:
        raise CannotFold(f"{describe(op)} weights a summand")
    if not all(isinstance(source, Value) and not source.constant for source in sources):
        raise CannotFold(f"{describe(op)} adds a constant")
    if any(source.shape != op.output.shape for source in sources):
        raise CannotFold(f"{describe(op)} broadcasts a summand")
    if op.name.startswith("add") and _feeds_a_summand(sources[0], sources):
        return sources[::-1]  # a bare copy of a layer's input cannot take the shift
    return sources


def _feeds_a_summand(source: Value, summands: list[Value]) -> bool:
    return any(other is not source and _reaches(source, other) for other in summands)


def _reaches(source: Value, value: Value) -> bool:
    op = value.producer
    if op is None:
        return False
    if is_layer(op):
        return op["input"] is source
    return op.name in {"add", "add_"} and any(_reaches(source, item) for item in op.inputs)


def _make_up_for(
    source: Value,
    requests: list[Request],
    context: Context,
    op: Op,
    channels: Channels,
    affine: Affine,
) -> list[Request]:
    """``scale * (K x + x)`` is ``(scale * K + (scale - 1) * I) x + x``."""
    if op.name not in {"add", "add_"}:
        raise CannotFold(f"{describe(op)} subtracts a layer's input")
    skip = affine.take(channels.index).scale - 1
    for index, request in enumerate(requests):
        if (
            not is_layer(request.op)
            or request.op["input"] is not source
            or request.skip is not None
        ):
            continue
        if centre_taps(context.layer(request.op)) is not None:
            changed = Request(request.op, request.affine, after=True, skip=skip)
            return [*requests[:index], changed, *requests[index + 1 :]]
    raise CannotFold(f"{describe(op)} adds a tensor that no layer can make up for")


def centre_taps(layer: Layer) -> tuple[tuple[int, ...], ...] | None:
    """Where the kernel tap that reads the output's own position lies, as ``(size, position)``
    for every axis; None if there is no such tap."""
    if layer.kind == "conv_transpose" or layer.in_channels != layer.out_channels:
        return None
    taps = []
    for kernel, stride, padding, dilation in layer.geometry:
        if stride != 1 or padding % dilation or padding // dilation >= kernel:
            return None
        taps.append((kernel, padding // dilation))
    return tuple(taps)
