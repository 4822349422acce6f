"""Folding an affine layer into the layers that read its output."""

from __future__ import annotations

from deployfold.folding.graph.affine_layer import AffineLayer
from deployfold.folding.graph.graph import Op, Value
from deployfold.folding.graph.layers import is_layer
from deployfold.folding.operators.change import Change
from deployfold.folding.operators.partial import NotSeparable

from .ask import ask
from .context import Context, describe
from .request import CannotFold, Request
from .rule import RuleForOne
from .runs import Run, runs_of


class IntoConsumers(RuleForOne):
    """``layer(affine(x))`` becomes ``layer'(x)``.

    The rule applies where, at every place where the affine layer runs:

    1. the layer's output is not an output of the model, and no forward hook sees it;
    2. every reader is a linear layer, another affine layer, or an operator with one changing input
       that carries the map to such readers, as the table of operators says;
    3. with a shift, no reader is a convolution with zero padding, because the map would have to
       turn the padding into the shift; nor a transposed convolution, because its outputs are sums
       over different numbers of taps;
    4. each layer's weight and bias are stored tensors that nothing else uses, and a layer that
       runs at several places gets the same request at each of them.
    """

    name = "into the consumer"

    def propose(self, affine_layer: AffineLayer, context: Context) -> list[Request]:
        """Return the requests to the consumers; see :class:`.RuleForOne`."""
        context.writers(affine_layer)  # raises where an in-place operator cannot be switched
        requests: list[Request] = []
        reached: set[Value] = set()
        for run in runs_of(affine_layer, context):
            requests += requests_behind(affine_layer, run, context, reached)
        agreed = context.agree(requests)
        if affine_layer.of_norm:
            _check_needs_no_bias(context, agreed)
        return agreed


def requests_behind(
    affine_layer: AffineLayer, run: Run, context: Context, reached: set[Value]
) -> list[Request]:
    """The requests that let the readers at one place absorb the affine layer."""
    result = run.last.output
    change = Change.of_axis(result, affine_layer.channel_axis(result), run.affine)
    return absorb(context, result, change, reached)


def _check_needs_no_bias(context: Context, requests: list[Request]) -> None:
    """Refuse where the shift of a norm would become a layer's first bias, which gains nothing."""
    for request in requests:
        if context.affine_layer_at(request.op) is not None or not request.affine.constant:
            continue
        if context.layer(request.op).bias is None:
            raise CannotFold(f"{describe(request.op)} would need its first bias")


def absorb(context: Context, value: Value, change: Change, reached: set[Value]) -> list[Request]:
    """Return the requests that let the readers of ``value`` absorb ``change``.

    Args:
        reached: the tensors that the map has reached; the function adds to the set.

    Raises:
        CannotFold: a reader cannot absorb the change.
    """
    if value.output:
        raise CannotFold("its output is an output of the model")
    if value in reached:
        raise CannotFold(f"its output reaches {describe_value(value)} on two paths")
    reached.add(value)
    context.check_unobserved(value)
    requests: list[Request] = []
    for op in value.consumers:
        requests += _absorb_at(context, op, value, change, reached)
    return requests


def _absorb_at(
    context: Context, op: Op, value: Value, change: Change, reached: set[Value]
) -> list[Request]:
    if op.inputs.count(value) > 1:
        raise CannotFold(f"{describe(op)} reads its output twice")
    if context.affine_layer_at(op) is not None:
        return [ask(context, op, value, change, after=False)]
    if is_layer(op):
        if op["input"] is not value:
            raise CannotFold(f"{describe(op)} reads its output as a parameter")
        request = ask(context, op, value, change, after=False)
        barrier = context.layer(op).shift_barrier
        if change.shifts and barrier:
            raise CannotFold(f"{describe(op)} {barrier}")
        return [request]
    requests: list[Request] = []
    try:
        for link in context.links(op):
            if value not in link.ends[1:]:
                raise NotSeparable("the operator does not read the tensor's numbers")
            requests += absorb(context, link.output, change.down(link, value), reached)
    except NotSeparable as reason:
        raise CannotFold(f"its output goes into {describe(op)}: {reason}") from reason
    return requests


def describe_value(value: Value) -> str:
    """Name a tensor for a report, by the operator that makes it."""
    return "an input" if value.producer is None else f"the output of {describe(value.producer)}"
