"""Merging parallel linear branches over one input into one layer.

``k×k(x) + 1×1(x) + BN(x)``, as RepVGG, MobileOne, RepViT and FastViT train it, is one convolution.
The rule finds such sums by structure: a chain of additions whose summands are layers, or
BatchNorms, over the same tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from deployfold.folding.graph.affine_layer import AffineLayer
from deployfold.folding.graph.graph import Op, Value
from deployfold.folding.graph.layers import Layer, channel_axis, is_layer
from deployfold.folding.kernels import centre_taps, taps_within
from deployfold.folding.plan import Folded, MoveLayer, Replacement, Term, ZeroBranch

from .context import Context
from .request import CannotFold


@dataclass(frozen=True, eq=False)
class _Branch:
    """A summand: a layer or BatchNorm ``op`` over ``source`` whose ``result`` only a sum reads."""

    source: Value
    result: Value
    op: Op
    sign: int
    content: Layer | AffineLayer

    @property
    def parent(self) -> Op:
        """The sum that reads the branch now; merging other branches may change the sum."""
        return self.result.consumers[0]

    @property
    def removable(self) -> bool:
        """Whether a scalar zero may replace the branch in the sum."""
        first = self.parent["self"] is self.result
        return not (first and self.parent.name in {"add_", "sub", "sub_"})


class MergeBranches:
    """Merge every set of parallel branches that one branch of the set can absorb.

    The *kept* branch has the fewest groups and then the most taps. Another branch is merged into
    the kept one where:

    1. both read the same tensor, and only the same chain of additions reads their results;
    2. the strides are equal, and every tap of the merged kernel falls on a tap of the kept kernel,
       with zero padding on both;
    3. the merged branch's groups are a multiple of the kept branch's groups; a BatchNorm or a bare
       scale counts as a depthwise kernel of one tap, on the channel axis of the kept branch;
    4. both run once, and nothing else uses their tensors.
    """

    name = "into the parallel branch"

    def apply(self, context: Context) -> bool:
        """Merge all branches of the graph; see :class:`.Rule`."""
        if not context.reparam:
            return False
        before = len(context.folded)
        for op in context.graph.ops:
            if not _adds(op) or op not in context.graph or _is_summand(op):
                continue
            by_source: dict[Value, list[_Branch]] = {}
            for branch in _branches(context, op, 1):
                by_source.setdefault(branch.source, []).append(branch)
            for branches in by_source.values():
                self._merge(context, branches)
        return len(context.folded) > before

    def _merge(self, context: Context, branches: list[_Branch]) -> None:
        """Merge the branches over one input."""
        for kept, layer, branch in _pairs(branches):
            if not _absorb(context, kept, layer, branch):
                continue
            name, content = branch.op.call.path, branch.content
            norm = isinstance(content, AffineLayer) and content.is_batchnorm
            kind = "batchnorm" if norm else "branch"
            context.folded.append(Folded(name, self.name, (layer.path,), kind))
            if branch.removable:
                context.removals.append(ZeroBranch(name))
                _disconnect(context, branch)
            else:
                context.removals.append(MoveLayer(layer.path, name))
                _move(context, kept, branch)
                return  # the kept branch has moved; the next try merges the others


def _adds(op: Op) -> bool:
    return op.name.rstrip("_") in {"add", "sub"}


def _is_summand(op: Op) -> bool:
    value = op.output
    return len(value.consumers) == 1 and _adds(value.consumers[0]) and not value.output


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
        if _adds(producer):
            found += _branches(context, producer, side)
            continue
        branch = _branch(context, value, producer, side)
        if branch is not None:
            found.append(branch)
    return found


def _branch(context: Context, value: Value, op: Op, sign: int) -> _Branch | None:
    affine_layer = context.affine_layer_at(op)
    if op.call.path in context.keep:
        return None
    try:
        context.check_unobserved(value)
        if affine_layer is not None:
            plain = affine_layer.removals == (Replacement(op.call.path),)
            if not plain or affine_layer.reason is not None or affine_layer.sites != [op]:
                return None
            return _Branch(op.inputs[0], value, op, sign, affine_layer)
        if not is_layer(op) or op["weight"].consumers != [op]:
            return None
        layer = context.layer(op)
    except CannotFold:
        return None
    calls = context.graph.calls_of(op.call.module)
    own = layer.weight == f"{layer.path}.weight" and layer.kind != "deform_conv"
    if layer.functional or len(calls) != 1 or not own:
        return None
    return _Branch(op["input"], value, op, sign, layer)


def _pairs(branches: list[_Branch]) -> Iterator[tuple[_Branch, Layer, _Branch]]:
    """Yield the branch to keep and its layer, with each other branch that can go."""
    layers = [
        (branch, branch.content)
        for branch in branches
        if isinstance(branch.content, Layer) and branch.content.kind != "conv_transpose"
    ]
    if len(branches) < 2 or not layers:
        return
    kept, layer = min(layers, key=lambda pair: _preference(*pair))
    for branch in branches:
        # If the other branch needs full size in its place, the kept branch moves there.
        if branch is not kept and (branch.removable or kept.removable):
            yield kept, layer, branch


def _preference(branch: _Branch, layer: Layer) -> tuple[int, int, bool]:
    """The least is the branch to keep: few groups, then many taps."""
    return (layer.groups, -math.prod(kernel for kernel, *_ in layer.geometry), branch.removable)


def _absorb(context: Context, kept: _Branch, layer: Layer, branch: _Branch) -> bool:
    """Add ``branch`` to the edit of the kept layer; return whether it fits there."""
    sign, content = kept.sign * branch.sign, branch.content
    if isinstance(content, AffineLayer):
        affine, axis = content.affine, channel_axis(kept.op, kept.result)
        if content.channel_axis(branch.result) != axis:
            return False
        if centre_taps(layer) is None or affine.scale.numel() != layer.out_channels:
            return False
        terms: tuple[Term, ...] = (Term(None, sign * affine.scale),)
        shift, biased = affine.shift, affine.constant
        del context.affine_layers[content]
    else:
        if taps_within(content, layer) is None:
            return False
        other = context.pending_of(content)
        terms = tuple(replace(term, rows=sign * term.rows) for term in other.terms)
        shift, biased = other.shift, other.biased
        context.pending.pop(content.key, None)
    kept_edit = context.pending_of(layer)
    context.pending[layer.key] = replace(
        kept_edit,
        terms=(*kept_edit.terms, *terms),
        shift=kept_edit.shift + sign * shift,
        biased=kept_edit.biased or biased,
    )
    return True


def _disconnect(context: Context, branch: _Branch) -> None:
    """Remove the branch and its addition from the graph."""
    parent = branch.parent
    context.graph.remove(branch.op)
    parent.inputs = [value for value in parent.inputs if value is not branch.result]
    context.graph.bypass(parent)


def _move(context: Context, kept: _Branch, branch: _Branch) -> None:
    """Move the kept layer to the place of ``branch`` and remove the layer's own addition."""
    parent, layer = kept.parent, kept.op
    context.graph.remove(branch.op)
    parent.inputs = [value for value in parent.inputs if value is not kept.result]
    context.graph.bypass(parent)
    layer.outputs = [branch.result]
    branch.result.producer = layer
