"""Folding a map into the layers that read its output (rule 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from deployfold.folding.algebra import Affine
from deployfold.folding.graph.graph import Op, Value
from deployfold.folding.graph.layers import channel_axis, is_layer
from deployfold.folding.graph.unit import Unit
from deployfold.folding.operators.channels import (
    AVERAGES,
    CONCATENATIONS,
    KEEP,
    MAXIMA,
    Channels,
    NotSeparable,
    axis_without,
    is_identity,
    move_down,
    moves,
    reduced_axes,
)

from .context import CannotFold, Context, Request, describe
from .into_producer import check_reduction


@dataclass(frozen=True, eq=False)
class IntoConsumers:
    """``layer(affine(x))`` becomes ``layer'(x)``.

    Applies where, for every place the unit runs:

    1. its output is not an output of the model, and no forward hook sees it;
    2. every reader is a convolution or linear layer, another unit, or an operator that a
       per-channel affine map can be carried through to such readers;
    3. a convolution adds no zero padding (the map would have to send the padding to its shift),
       unless the map has no shift; a transposed convolution is allowed without a shift alone,
       since its outputs are sums over different numbers of taps;
    4. each layer's weight and bias are stored tensors that nothing else uses, and a layer that
       runs at several places is asked for the same thing at each of them.
    """

    name: str = "into the consumer"

    def propose(self, unit: Unit, context: Context) -> list[Request]:
        """What has to be asked of which layers for ``unit`` to go.

        Raises:
            CannotFold: the rule does not apply.
        """
        assert unit.affine is not None
        requests: list[Request] = []
        for site in unit.sites:
            result = site.output
            channels = Channels.of_axis(result, unit.channel_axis(result))
            requests += _absorb(context, result, channels, unit.affine)
        return context.agree(requests)


def _absorb(context: Context, value: Value, channels: Channels, affine: Affine) -> list[Request]:
    if value.output:
        raise CannotFold("its output is an output of the model")
    context.check_unobserved(value)
    requests: list[Request] = []
    for op in value.consumers:
        requests += _absorb_at(context, op, value, channels, affine)
    return requests


def _absorb_at(
    context: Context, op: Op, value: Value, channels: Channels, affine: Affine
) -> list[Request]:
    if op.inputs.count(value) > 1:
        raise CannotFold(f"{describe(op)} reads its output twice")
    unit = context.unit_at(op)
    if unit is not None:
        if unit.reason is not None or not unit.editable:
            raise CannotFold(f"{unit.name}, which reads its output, cannot take it up")
        if channels.axis != unit.channel_axis(value):
            raise CannotFold(f"{unit.name} normalises another axis")
        return [Request(op, affine.take(channels.index), after=False)]
    if is_layer(op):
        return [_ask_layer(context, op, value, channels, affine)]
    if op.name in CONCATENATIONS:
        return _through_concatenation(context, op, value, channels, affine)
    if any(source is not value and not source.constant for source in op.inputs):
        raise CannotFold(f"its output goes into {describe(op)}")
    if is_identity(op):
        return _absorb(context, op.output, channels, affine)
    try:
        if moves(op):
            requests: list[Request] = []
            for result in op.outputs:
                moved = move_down(op, value, result, channels, shifts=affine.has_shift)
                requests += _absorb(context, result, moved, affine)
            return requests
        if op.name in AVERAGES or op.name in MAXIMA:
            removed = reduced_axes(op, value)
            if channels.axis in removed:
                raise NotSeparable("it works across the channels")
            check_reduction(op, affine)
            axis = axis_without(channels.axis, removed, op)
            return _absorb(context, op.output, Channels(axis, channels.index), affine)
    except NotSeparable as reason:
        raise CannotFold(f"its output goes into {describe(op)}: {reason}") from reason
    raise CannotFold(f"its output goes into {describe(op)}")


def _ask_layer(
    context: Context, op: Op, value: Value, channels: Channels, affine: Affine
) -> Request:
    if op["input"] is not value:
        raise CannotFold(f"its output is a weight of {describe(op)}")
    layer = context.layer(op)
    if channels.axis != channel_axis(op, value):
        raise CannotFold(f"it normalises another axis than the inputs of {describe(op)}")
    if affine.has_shift and layer.padded:
        raise CannotFold(
            f"{describe(op)} pads with zeros; folding would need padding with another value, "
            "which costs what it saves"
        )
    if affine.has_shift and layer.kind == "conv_transpose":
        raise CannotFold(f"{describe(op)} sums a different number of taps at its borders")
    return Request(op, affine.take(channels.index), after=False)


def _through_concatenation(
    context: Context, op: Op, value: Value, channels: Channels, affine: Affine
) -> list[Request]:
    axis = op["dim"] % len(op.output.shape)
    if axis != channels.axis:
        raise CannotFold(f"its output goes into {describe(op)}, beside other tensors")
    parts = [
        channels.index if source is value else torch.full((source.shape[axis],), KEEP)
        for source in op["tensors"]
    ]
    return _absorb(context, op.output, Channels(axis, torch.cat(parts)), affine)
