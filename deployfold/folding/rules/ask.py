"""Asking a layer right before or right behind an affine layer to absorb a change."""

from __future__ import annotations

from deployfold.folding.graph.graph import Op, Value
from deployfold.folding.graph.layers import channel_axis
from deployfold.folding.operators.change import Change

from .context import Context, describe
from .request import CannotFold, Request


def ask(context: Context, op: Op, value: Value, change: Change, *, after: bool) -> Request:
    """The request that the linear layer or affine layer at ``op`` absorb ``change`` of ``value``.

    Args:
        value: the layer's output if ``after``, and its input otherwise.

    Raises:
        CannotFold: the layer cannot be changed, or its channels lie on another axis.
    """
    affine_layer = context.affine_layer_at(op)
    if affine_layer is None:
        context.layer(op)  # raises where the layer cannot be rewritten
        axis = channel_axis(op, value)
    elif affine_layer.reason is None and affine_layer.editable:
        axis = affine_layer.channel_axis(value)
    else:
        place = "comes before it" if after else "reads its output"
        raise CannotFold(f"{affine_layer.name}, which {place}, cannot absorb the map")
    if not change.only_along(axis):
        side = "outputs" if after else "inputs"
        raise CannotFold(f"its channels lie on another axis than the {side} of {describe(op)}")
    return Request(op, change.affine(value, axis), after=after)
