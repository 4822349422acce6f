"""Folding an affine layer into the layers that produce its input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deployfold.folding.graph.affine_layer import AffineLayer
from deployfold.folding.graph.graph import Op, Value
from deployfold.folding.graph.layers import is_layer
from deployfold.folding.kernels import centre_taps
from deployfold.folding.operators.change import Change
from deployfold.folding.operators.links import Link
from deployfold.folding.operators.partial import NotSeparable
from deployfold.folding.operators.table import is_sum

from .ask import ask
from .context import Context, describe
from .request import CannotFold, Request
from .rule import RuleForOne
from .runs import Run, runs_of


class IntoProducers(RuleForOne):
    """``affine(layer(x))`` becomes ``layer'(x)``.

    The rule applies where, at every place where the affine layer runs:

    1. the layer's input has no other reader, is not a model output, and no forward hook sees it;
    2. every operator upwards from the input can carry the map through, as the table of operators
       says; in a sum, every summand takes the scale and one summand takes the shift;
    3. every path ends at a linear layer (by any name: see :mod:`deployfold.folding.graph.layers`)
       or at another affine layer, and that layer's channels are the channels of the map;
    4. that layer's weight and bias are stored tensors that nothing else uses, and a layer that
       runs at several places gets the same request at each of them.
    """

    name = "into the producer"

    def propose(self, affine_layer: AffineLayer, context: Context) -> list[Request]:
        """Return the requests to the producers; see :class:`.RuleForOne`."""
        requests: list[Request] = []
        for run in runs_of(affine_layer, context):
            requests += requests_before(affine_layer, run, context)
        return context.agree(requests)


def requests_before(affine_layer: AffineLayer, run: Run, context: Context) -> list[Request]:
    """The requests that let the producers at one place absorb the affine layer."""
    source = run.first.inputs[0]
    change = Change.of_axis(source, affine_layer.channel_axis(source), run.affine)
    return _absorb(context, source, run.first, change)


def _absorb(context: Context, value: Value, reader: Op, change: Change) -> list[Request]:
    """Return the requests that let the producers of ``value`` absorb ``change``."""
    op = _only_producer(context, value, reader)
    if is_layer(op) or context.affine_layer_at(op) is not None:
        return [ask(context, op, value, change, after=True)]
    try:
        links = context.links(op)
        if is_sum(op) and len(op.variable) > 1:
            return _through_sum(context, op, links[0], change)
        return _through(context, op, value, links, change)
    except NotSeparable as reason:
        raise CannotFold(
            f"{describe(op)} lies between it and the layers before it: {reason}"
        ) from reason


def _only_producer(context: Context, value: Value, reader: Op) -> Op:
    """The operator that computes ``value``, where ``reader`` is the only reader.

    Raises:
        CannotFold: something else reads ``value``, or ``value`` is a constant or a model input.
    """
    op = value.producer
    if op is None:
        raise CannotFold(
            "it normalises a constant" if value.constant else "it normalises the model's input"
        )
    others = [consumer for consumer in value.consumers if consumer is not reader]
    if others:
        raise CannotFold(f"its input {describe(op)} also feeds {describe(others[0])}")
    if value.consumers.count(reader) > 1:
        raise CannotFold(f"{describe(reader)} reads {describe(op)} twice")
    if value.output:
        raise CannotFold(f"its input {describe(op)} is also an output of the model")
    context.check_unobserved(value)
    return op


def _through(
    context: Context, op: Op, value: Value, links: Sequence[Link], change: Change
) -> list[Request]:
    """Carry ``change`` of the output ``value`` to all inputs; other outputs stay as they are."""
    for source in op.variable:  # checked first: a concatenation may join hundreds
        if any(source in link.ends[1:] for link in links):
            _only_producer(context, source, op)
    wanted: dict[Value, Change] = {}
    for link in links:
        at_output = change if link.output is value else Change.none(link.output)
        if link.output is not value and not link.output.consumers and not link.output.output:
            continue
        for index, (source, _, _) in enumerate(link.inputs):
            part = at_output.up(link, index)
            wanted[source] = part if source not in wanted else wanted[source].joined(part)
    requests: list[Request] = []
    for source, part in wanted.items():
        if source.constant:
            raise CannotFold(f"{describe(op)} concatenates a constant tensor")
        requests += _absorb(context, source, op, part)
    return requests


def _through_sum(context: Context, op: Op, link: Link, change: Change) -> list[Request]:
    """Give every summand the scale, and the shift to the first that feeds no other summand."""
    sources = [source for source, _, _ in link.inputs]
    order = [index for index in range(len(sources)) if not _feeds_another(sources, index)]
    order += [index for index in range(len(sources)) if index not in order]
    raw: list[Value] = []
    requests: list[Request] = []
    for position, index in enumerate(order):
        source = sources[index]
        part = change.up(link, index, shift=position == 0)
        try:
            requests += _absorb(context, source, op, part)
        except CannotFold:
            # A summand that is some layer's input can be corrected in that layer's weight.
            if position == 0 or not _feeds_another(sources, index):
                raise
            raw.append(source)
    for source in raw:
        requests = _correct_skip(source, sources, requests, context, op)
    return requests


def _feeds_another(summands: Sequence[Value], index: int) -> bool:
    source = summands[index]
    return any(
        next(_layers_reading(source, other), None) is not None
        for other in summands
        if other is not source
    )


def _layers_reading(source: Value, summand: Value) -> Iterator[Op]:
    """Yield the layers that read ``source`` and whose outputs additions carry into ``summand``."""
    waiting, seen = [summand], {summand}
    while waiting:
        op = waiting.pop().producer
        if op is None:
            continue
        if is_layer(op) and op["input"] is source:
            yield op
        elif op.name in {"add", "add_"}:
            waiting += [value for value in op.inputs if value not in seen]
            seen.update(op.inputs)


def _correct_skip(
    source: Value,
    summands: Sequence[Value],
    requests: list[Request],
    context: Context,
    op: Op,
) -> list[Request]:
    """``scale * (K x + x)`` is ``(scale * K + (scale - 1) * I) x + x``."""
    if op.name not in {"add", "add_"}:
        raise CannotFold(f"{describe(op)} subtracts a layer's input")
    layers = {layer for summand in summands for layer in _layers_reading(source, summand)}
    for index, request in enumerate(requests):
        if request.op not in layers or request.skip is not None:
            continue
        if centre_taps(context.layer(request.op)) is not None:
            skip = request.affine.scale - 1
            changed = Request(request.op, request.affine, after=True, skip=skip)
            return [*requests[:index], changed, *requests[index + 1 :]]
    raise CannotFold(f"{describe(op)} adds a tensor whose scale no layer can correct")
