"""Merging parallel linear branches over one input into one layer (rule 6).

``k×k(x) + 1×1(x) + BN(x)``, as RepVGG, MobileOne, RepViT and FastViT train it, is one convolution.
Such sums are found by structure: the summands of a chain of additions that are layers, or
BatchNorms, over the very same tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deployfold.folding.graph.graph import Op, Value
from deployfold.folding.graph.layers import Layer, is_layer
from deployfold.folding.graph.unit import Unit

from .context import CannotFold, Context
from .into_producer import centre_taps
from .plan import Folded, Removal, Replacement, Silence, Term, Transplant

_SUMS = frozenset({"add", "add_", "sub", "sub_"})


@dataclass(frozen=True, eq=False)
class _Branch:
    """A summand: a layer or a unit that reads ``source`` and whose result only a sum reads."""

    source: Value
    result: Value
    sign: int
    layer: Layer | None = None
    unit: Unit | None = None

    @property
    def parent(self) -> Op:
        """The sum that reads it now; merging other branches changes which one that is."""
        return self.result.consumers[0]

    @property
    def removable(self) -> bool:
        """Whether a scalar zero may take its place in the sum."""
        first = self.parent["self"] is self.result
        return not (first and self.parent.name in {"add_", "sub", "sub_"})

    @property
    def op(self) -> Op:
        assert self.result.producer is not None
        return self.result.producer


def merge_branches(context: Context) -> tuple[list[Folded], list[Removal]]:
    """Merge every set of parallel branches that one of them can take up.

    A branch is merged into the one with the fewest groups and the most taps where:

    1. both read the same tensor and their results are read by the same chain of additions only;
    2. strides are equal, and every tap of the merged kernel falls on a tap of the kept one, with
       zero padding on both;
    3. its groups are a multiple of the kept one's; a BatchNorm or a bare scale is a depthwise
       kernel of one tap;
    4. both run once, and their tensors are used by nothing else.
    """
    folded: list[Folded] = []
    removals: list[Removal] = []
    for op in list(context.graph.ops):
        if op.name not in _SUMS or _is_summand(op):
            continue
        by_source: dict[Value, list[_Branch]] = {}
        for branch in _branches(context, op, 1):
            by_source.setdefault(branch.source, []).append(branch)
        for branches in by_source.values():
            for kept, branch in _pairs(branches):
                if not _absorb(context, kept, branch):
                    continue
                assert kept.layer is not None
                name = branch.op.call.path
                kind = "batchnorm" if branch.unit and branch.unit.is_batchnorm else "branch"
                folded.append(Folded(name, "into the parallel branch", (kept.layer.path,), kind))
                if branch.removable:
                    removals.append(Silence(name))
                    _disconnect(context, branch)
                else:
                    removals.append(Transplant(kept.layer.path, name))
                    _move(context, kept, branch)
                    break  # the branch that was kept is elsewhere now; the rest goes next time
    return folded, removals


def _is_summand(op: Op) -> bool:
    value = op.output
    return len(value.consumers) == 1 and value.consumers[0].name in _SUMS and not value.output


def _branches(context: Context, op: Op, sign: int) -> list[_Branch]:
    if op.arguments.get("alpha", 1) != 1 or not isinstance(op["other"], Value):
        return []
    found: list[_Branch] = []
    for name in ("self", "other"):
        value = op[name]
        if not isinstance(value, Value) or value.shape != op.output.shape or value.output:
            continue
        side = -sign if name == "other" and op.name.startswith("sub") else sign
        producer = value.producer
        if producer is None or value.consumers != [op]:
            continue
        if producer.name in _SUMS:
            found += _branches(context, producer, side)
            continue
        branch = _branch(context, value, producer, side)
        if branch is not None:
            found.append(branch)
    return found


def _branch(context: Context, value: Value, op: Op, sign: int) -> _Branch | None:
    unit = context.unit_at(op)
    try:
        context.check_unobserved(value)
        if unit is not None:
            plain = unit.removals == (Replacement(op.call.path),) and unit.reason is None
            if not plain or unit.sites != [op] or unit.affine is None:
                return None
            return _Branch(op.inputs[0], value, sign, unit=unit)
        if not is_layer(op) or op["weight"].consumers != [op]:
            return None
        layer = context.layer(op)
    except CannotFold:
        return None
    calls = context.graph.calls_of(op.call.module)
    if layer.functional or len(calls) != 1 or layer.weight != f"{layer.path}.weight":
        return None
    return _Branch(op["input"], value, sign, layer=layer)


def _pairs(branches: list[_Branch]) -> Iterator[tuple[_Branch, _Branch]]:
    """The branch to keep with each of the others that can go, while that holds."""
    kept = _choose(branches)
    for branch in branches if kept is not None else ():
        assert kept is not None
        # The kept one can leave its place for that of a branch that has to be of full size.
        if branch is not kept and (branch.removable or kept.removable):
            yield kept, branch


def _choose(branches: list[_Branch]) -> _Branch | None:
    layers = [
        branch for branch in branches if branch.layer and branch.layer.kind != "conv_transpose"
    ]
    if len(branches) < 2 or not layers:
        return None

    def preference(branch: _Branch) -> tuple[int, int, bool]:
        layer = branch.layer
        assert layer is not None
        taps = 1
        for kernel, *_ in layer.geometry:
            taps *= kernel
        return (layer.groups, -taps, branch.removable)

    return min(layers, key=preference)


def _absorb(context: Context, kept: _Branch, branch: _Branch) -> bool:
    assert kept.layer is not None
    sign = kept.sign * branch.sign
    if branch.unit is not None:
        affine = branch.unit.affine
        assert affine is not None
        if centre_taps(kept.layer) is None or affine.scale.numel() != kept.layer.out_channels:
            return False
        pending = context.pending_of(kept.layer)
        pending.terms.append(Term(None, sign * affine.scale))
        pending.shift = pending.shift + sign * affine.shift
        pending.biased = pending.biased or affine.constant
        context.units.remove(branch.unit)
        return True
    assert branch.layer is not None
    if taps_within(branch.layer, kept.layer) is None:
        return False
    pending, other = context.pending_of(kept.layer), context.pending_of(branch.layer)
    pending.terms += [Term(term.source, sign * term.rows, term.columns) for term in other.terms]
    pending.shift = pending.shift + sign * other.shift
    pending.biased = pending.biased or other.biased
    del context.pending[branch.layer.weight]
    return True


def taps_within(small: Layer, large: Layer) -> tuple[tuple[int, ...], ...] | None:
    """For every spatial axis, the size of ``large``'s kernel and where in it each tap of
    ``small``'s lies; None if they do not fit."""
    if small.kind != large.kind or small.rank != large.rank or small.groups % large.groups:
        return None
    taps = []
    for (k, stride, padding, dilation), (size, large_stride, large_padding, step) in zip(
        small.geometry, large.geometry, strict=True
    ):
        offsets = [large_padding - padding + tap * dilation for tap in range(k)]
        if stride != large_stride or any(offset % step for offset in offsets):
            return None
        positions = [offset // step for offset in offsets]
        if positions[0] < 0 or positions[-1] >= size:
            return None
        taps.append((size, *positions))
    return tuple(taps)


def _disconnect(context: Context, branch: _Branch) -> None:
    """Take the branch and its addition out of the graph."""
    parent = branch.parent
    _remove(context, branch.op)
    parent.inputs = [value for value in parent.inputs if value is not branch.result]
    context.graph.bypass(parent)


def _move(context: Context, kept: _Branch, branch: _Branch) -> None:
    """Let the kept layer run in the place of ``branch``, and take its own addition out."""
    parent, layer = kept.parent, kept.op
    _remove(context, branch.op)
    parent.inputs = [value for value in parent.inputs if value is not kept.result]
    context.graph.bypass(parent)
    layer.outputs = [branch.result]
    branch.result.producer = layer


def _remove(context: Context, op: Op) -> None:
    for value in op.inputs:
        value.consumers = [consumer for consumer in value.consumers if consumer is not op]
    context.graph.ops.remove(op)
