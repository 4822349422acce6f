"""The planning state that all fold rules share: the remaining graph and the pending layer edits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch

from deployfold.folding.graph.affine_layer import AffineLayer
from deployfold.folding.graph.aliases import overwriting, read_by_others
from deployfold.folding.graph.graph import Graph, Op, Value, has_hooks
from deployfold.folding.graph.layers import Layer, is_layer, layer_of, places_of, same_bias, ties
from deployfold.folding.operators.links import Link
from deployfold.folding.operators.partial import NotSeparable
from deployfold.folding.operators.table import links_of
from deployfold.folding.plan import Folded, LayerEdit, NotInPlace, Removal, Term
from deployfold.folding.rewrite.forward import cannot_rewrite

from .request import CannotFold, Request


@dataclass(eq=False)
class Context:
    """The planning state that the rules read and change.

    affine_layers: the affine layers not folded yet, in the order in which they ran.
    reparam, keep: merge parallel branches too; names that must stay.
    pending: the edit of each layer so far, by the names of the layer's weight and bias.
    folded, removals: the folds so far, and the module changes that they need.
    refusals: for each affine layer, the reason of each rule that refused it.
    faults: failures of deployfold itself, one sentence each.
    exhausted: the length of ``folded`` when :class:`.IntoNeighbours` last finished; -1 before.
    """

    graph: Graph
    affine_layers: dict[AffineLayer, None]
    reparam: bool = True
    keep: frozenset[str] = frozenset()
    pending: dict[tuple[str, str], LayerEdit] = field(default_factory=dict)
    folded: list[Folded] = field(default_factory=list)
    removals: list[Removal] = field(default_factory=list)
    refusals: dict[AffineLayer, dict[str, str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    exhausted: int = -1

    def __post_init__(self) -> None:
        self._affine_layer_at = {op: item for item in self.affine_layers for op in item.sites}
        self._layers: dict[Op, Layer | str] = {}
        self._links: dict[Op, tuple[tuple[Value, ...], list[Link] | str]] = {}
        self._rewritable: dict[Op, str | None] = {}
        self._hooked = [call for call in self.graph.calls if has_hooks(call.module)]  # mostly none

    # Queries on the graph.

    def affine_layer_at(self, op: Op) -> AffineLayer | None:
        """The affine layer that runs at ``op``, or ``None``."""
        return self._affine_layer_at.get(op)

    def links(self, op: Op) -> list[Link]:
        """Every output of ``op`` as a sum over its inputs.

        Raises:
            NotSeparable: ``op`` cannot carry a channel-wise affine map through.
        """
        inputs = tuple(op.inputs)  # bypassing an operator changes the inputs of its readers
        if op not in self._links or self._links[op][0] != inputs:
            try:
                self._links[op] = (inputs, links_of(op))
            except NotSeparable as refusal:
                self._links[op] = (inputs, str(refusal))
        found = self._links[op][1]
        if isinstance(found, str):
            raise NotSeparable(found)
        return found

    def check_unobserved(self, value: Value) -> None:
        """Refuse a tensor that a forward hook or code outside torch sees.

        Raises:
            CannotFold: a module with hooks takes or returns it, or it is detached and torch reads
                it nowhere, as before ``numpy()``.
        """
        if value.producer is not None and value.producer.name == "detach" and not value.consumers:
            raise CannotFold("it is detached and read by code outside torch")
        for call in self._hooked:
            returned = bool(call.module._forward_hooks) and value in call.outputs
            if returned or value in call.inputs:
                raise CannotFold(f"{call.path or 'the model'} has forward hooks that would see it")

    def layer(self, op: Op) -> Layer:
        """The linear layer at ``op``, whose weight and bias may be rewritten.

        Raises:
            CannotFold: one of them is computed, shared, or written to in forward.
        """
        if op.call.transformed:
            raise CannotFold(
                f"{describe(op)} runs inside torch.vmap or another torch.func transform"
            )
        written = f"{op.call.path}.weight" if op["weight"].name is None else op["weight"].name
        if written in self.graph.mutated:
            raise CannotFold(f"{written} is written to in forward")
        if op not in self._layers:  # cached: an answer may need a trial
            self._layers[op] = layer_of(op)
        layer = self._layers[op]
        if isinstance(layer, str):
            raise CannotFold(layer)
        for name, argument in ((layer.weight, "weight"), (layer.bias, "bias")):
            if name is None:
                continue
            for user in op[argument].consumers:
                if not ties(user, op) or (argument == "bias" and user["input"] is op["bias"]):
                    raise CannotFold(f"{name} is also used by {describe(user)}")
            fixed = [user for user in op[argument].consumers if not user.variable]
            if fixed and op.variable:
                raise CannotFold(f"{describe(fixed[0])} also runs on a constant")
        return layer

    # Actions of the rules.

    def refuse(self, affine_layer: AffineLayer, rule: str, reason: str) -> None:
        """Record why ``rule`` leaves ``affine_layer``; the last reason of each rule counts."""
        self.refusals.setdefault(affine_layer, {})[rule] = reason

    def report_fault(self, affine_layer: AffineLayer | None, rule: str, error: Exception) -> None:
        """Record that a rule failed, which is a bug in the rule and not in the model."""
        sentence = (
            f"the rule «{rule}» failed ({type(error).__name__}: {error}); this is a bug in "
            "deployfold, please report it"
        )
        if affine_layer is not None:
            self.refuse(affine_layer, rule, sentence)
        name = f"{affine_layer.name}: " if affine_layer is not None else ""
        if name + sentence not in self.faults:
            self.faults.append(name + sentence)

    def fold(
        self,
        affine_layer: AffineLayer,
        requests: Sequence[Request],
        rule: str,
        *,
        into: Sequence[str] = (),
    ) -> None:
        """Fold ``affine_layer``: carry out ``requests`` and bypass its operators.

        Args:
            into: the layers that have absorbed ``affine_layer`` already.
        """
        writers = self.writers(affine_layer)
        self.removals.extend(NotInPlace(path) for path in dict.fromkeys(writers))
        names = (*into, *self.commit(requests))
        for op in affine_layer.sites:
            self.graph.bypass(op)
        del self.affine_layers[affine_layer]
        self.removals.extend(affine_layer.removals)
        self.folded.append(Folded(affine_layer.name, rule, names, affine_layer.kind))

    def writers(self, affine_layer: AffineLayer) -> list[str]:
        """The in-place modules that would overwrite a shared tensor if ``affine_layer`` went.

        Raises:
            CannotFold: an in-place operator there has no ``inplace`` attribute to switch off.
        """
        found = []
        for site in affine_layer.sites:
            if not read_by_others(site.inputs[0]):
                continue
            for op in overwriting(site.output, site.call):
                if getattr(op.call.module, "inplace", None) is not True:
                    raise CannotFold(
                        f"other operators read its input, and {describe(op)} overwrites its output"
                    )
                found.append(op.call.path)
        return found

    def agree(self, requests: Iterable[Request]) -> list[Request]:
        """Reduce ``requests`` to one a layer; each place where the layer runs must ask the same.

        Layers with one weight and biases of their own need the same scale alone.

        Raises:
            CannotFold: a layer's places ask for different changes, or one asks twice or not at all.
        """
        by_target: dict[tuple[AffineLayer | tuple[str, str], bool], list[Request]] = {}
        for request in requests:
            target = self.affine_layer_at(request.op) or self.layer(request.op).key
            by_target.setdefault((target, request.after), []).append(request)
        chosen = []
        for (target, after), asked in by_target.items():
            first = asked[0]
            if isinstance(target, AffineLayer):
                places, where = target.sites, target.name
            else:
                places, where = places_of(first.op), target[0]
                if first.affine.constant:
                    self.check_takes_bias(first.op)
            if {request.op for request in asked} != set(places) or len(asked) != len(places):
                many = len(places)
                raise CannotFold(
                    f"{where} runs at {many} places that do not all agree"
                    if many > 1
                    else f"{where} would have to absorb {len(asked)} different maps"
                )
            if not all(first.same_as(request) for request in asked[1:]):
                raise CannotFold(f"the places where {describe(first.op)} runs need different maps")
            for other in [] if isinstance(target, AffineLayer) else self._tied(first.op):
                theirs = by_target.get((self.layer(other).key, after), [None])[0]
                if not first.scales_as(theirs):
                    raise CannotFold(
                        f"{describe(first.op)} and {describe(other)} have one weight, and "
                        "would need different scales"
                    )
            chosen.append(first)
        return chosen

    @staticmethod
    def _tied(op: Op) -> list[Op]:
        """The layers that have the weight of the layer at ``op``, and another bias."""
        return [
            user for user in op["weight"].consumers if is_layer(user) and not same_bias(user, op)
        ]

    def check_takes_bias(self, op: Op) -> None:
        """Check that a layer that a forward calls as a function can be given its first bias.

        Raises:
            CannotFold: ``torch.fx`` cannot rewrite the forward, or the layer is a ``deform_conv``.
        """
        layer = self.layer(op)
        if not layer.functional or layer.kind == "embedding":
            return
        if layer.kind == "deform_conv":
            raise CannotFold(f"{describe(op)} has no bias, and its forward passes it none")
        for place in places_of(op):
            if place not in self._rewritable:
                module = place.call.module
                self._rewritable[place] = cannot_rewrite(module, place.name, place.occurrence)
            reason = self._rewritable[place]
            if reason is not None:
                raise CannotFold(f"{describe(place)} has no bias: {reason}")

    def commit(self, requests: Sequence[Request]) -> tuple[str, ...]:
        """Add agreed requests to the pending edits; return the names of the layers that change."""
        names = []
        for request in requests:
            affine_layer = self.affine_layer_at(request.op)
            if affine_layer is not None:
                inner, outer = affine_layer.affine, request.affine
                affine_layer.affine = outer.after(inner) if request.after else inner.after(outer)
                affine_layer.edited = True
                names.append(affine_layer.name)
            else:
                layer = self.layer(request.op)
                self.pending[layer.key] = _absorbing(self.pending_of(layer), request)
                names.append(layer.weight.rpartition(".")[0] or layer.weight)
        return tuple(dict.fromkeys(names))

    def pending_of(self, layer: Layer) -> LayerEdit:
        """The edit of ``layer`` so far; a new edit holds only the layer's own weight."""
        if layer.key in self.pending:
            return self.pending[layer.key]
        rows = torch.ones(layer.out_channels, dtype=torch.float64)
        return LayerEdit(layer, (Term(layer, rows),), 0 * rows, layer.bias is not None)


def _absorbing(edit: LayerEdit, request: Request) -> LayerEdit:
    """The edit of a layer that absorbs one more map."""
    affine, shift = request.affine, edit.shift
    if request.after:
        terms = [replace(term, rows=term.rows * affine.scale) for term in edit.terms]
        shift = shift * affine.scale + affine.shift
    else:
        terms = [
            replace(term, columns=affine if term.columns is None else term.columns.after(affine))
            for term in edit.terms
        ]
    if request.skip is not None:
        terms.append(Term(None, request.skip))
    return LayerEdit(edit.layer, tuple(terms), shift, edit.biased or affine.constant)


def describe(op: Op) -> str:
    """Name an operator for a report: by its module, or by its function and where that ran."""
    place = op.call.path or "the model's forward"
    own = {type(op.call.module).__name__.lower(), type(op.call.module).__name__, "channel_affine"}
    return place if op.name.rstrip("_").lower() in own else f"{op.name} in {place}"
