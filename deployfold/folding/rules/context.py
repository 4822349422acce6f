"""What the rules share: the graph, the layers' pending edits, and the checks before an edit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from deployfold.folding.algebra import Affine
from deployfold.folding.graph.graph import Graph, Op, Value
from deployfold.folding.graph.layers import Layer, layer_of
from deployfold.folding.graph.unit import Unit
from deployfold.folding.rewrite.forward import cannot_rewrite

from .plan import LayerEdit, Term


class CannotFold(Exception):
    """A rule does not apply; the text says why, and goes into the report."""


@dataclass(frozen=True, eq=False)
class Request:
    """Let the layer or unit that runs at ``op`` take up ``affine``.

    Attributes:
        after: the map follows the layer (it scales rows); else it precedes it (columns).
        skip: ``(out,)`` multiple of the identity to add to the layer's weight, which makes up for
            an unscaled copy of the layer's input that is added to its output.
    """

    op: Op
    affine: Affine
    after: bool
    skip: Tensor | None = None

    def same_as(self, other: Request) -> bool:
        """Whether both ask the same of a layer that runs at several places."""
        if self.after != other.after or (self.skip is None) != (other.skip is None):
            return False
        return self.affine.equals(other.affine) and (
            self.skip is None or other.skip is None or torch.equal(self.skip, other.skip)
        )


@dataclass(eq=False)
class _Pending:
    layer: Layer
    terms: list[Term]
    shift: Tensor
    biased: bool


@dataclass(eq=False)
class Context:
    """The state of matching: what is still in the graph, and what has been asked of each layer."""

    graph: Graph
    units: list[Unit]
    pending: dict[str, _Pending] = field(default_factory=dict)
    patience: int = 200_000
    """Steps that rules which search may take in all; one takes a tenth of a millisecond."""

    def __post_init__(self) -> None:
        self._unit_at = {op: unit for unit in self.units for op in unit.sites}
        self._layers: dict[Op, Layer | str] = {}
        self._rewritable: dict[Op, str | None] = {}
        self._hooked = [
            call
            for call in self.graph.calls
            if call.module._forward_hooks or call.module._forward_pre_hooks
        ]  # few models have any

    def unit_at(self, op: Op) -> Unit | None:
        """The unit that runs at ``op``, if it is one."""
        return self._unit_at.get(op)

    def forget(self, unit: Unit) -> None:
        """``unit`` has been folded: let its operators be identities."""
        for op in unit.sites:
            self.graph.bypass(op)
        self.units.remove(unit)

    def check_unobserved(self, value: Value) -> None:
        """A forward hook must not see a tensor that folding changes, nor may code outside torch.

        Raises:
            CannotFold: a module that has hooks takes or returns ``value``, or it is detached and
                read by no operator, as before ``numpy()``.
        """
        if value.producer is not None and value.producer.name == "detach" and not value.consumers:
            raise CannotFold("it is detached and read by code outside torch")
        for call in self._hooked:
            returned = bool(call.module._forward_hooks) and value in call.outputs
            if returned or value in call.inputs:
                raise CannotFold(f"{call.path or 'the model'} has forward hooks that would see it")

    def number(self, value: Value) -> Tensor:
        """What a constant is: stored, then in float64, or computed from such as the forward does.

        Raises:
            CannotFold: it is written to in forward, made of random numbers or otherwise unknown.
        """
        if value.number is not None:
            stored = value.number.cpu()
            return stored.double() if stored.is_floating_point() else stored
        op = value.producer
        if op is not None and value.constant and op.repeatable and len(op.outputs) == 1:
            try:
                found: Tensor = op.rerun({source: self.number(source) for source in op.inputs})
                return found
            except (RuntimeError, KeyError):  # it wants another dtype or device
                pass
        raise CannotFold("it is not known before the model runs")

    def layer(self, op: Op) -> Layer:
        """The layer at ``op``, if its weight and bias may be rewritten.

        Raises:
            CannotFold: they are computed, shared with something else, or written to in forward.
        """
        written = f"{op.call.path}.weight" if op["weight"].name is None else op["weight"].name
        if written in self.graph.mutated:
            raise CannotFold(f"{written} is written to in forward")
        if op not in self._layers:  # rules ask again and again, and the answer may take a trial
            self._layers[op] = layer_of(op)
        layer = self._layers[op]
        if isinstance(layer, str):
            raise CannotFold(layer)
        for name, argument in ((layer.weight, "weight"), (layer.bias, "bias")):
            if name is None:
                continue
            strangers = [user for user in op[argument].consumers if not user.repeats(op)]
            if strangers:
                raise CannotFold(f"{name} is also used by {describe(strangers[0])}")
        return layer

    def agree(self, requests: Iterable[Request]) -> list[Request]:
        """One request for each layer and unit, if every place where it runs asks the same.

        Raises:
            CannotFold: a shared layer is asked for different things, or not at every place.
        """
        by_target: dict[tuple[Unit | str, bool], list[Request]] = defaultdict(list)
        for request in requests:
            target = self.unit_at(request.op) or self.layer(request.op).weight
            by_target[target, request.after].append(request)
        chosen = []
        for (target, _), asked in by_target.items():
            first = asked[0]
            if isinstance(target, str) and first.affine.constant:
                self._check_takes_bias(first.op)
            places = target.sites if isinstance(target, Unit) else first.op["weight"].consumers
            if {request.op for request in asked} != set(places) or len(asked) != len(places):
                where = target.name if isinstance(target, Unit) else str(target)
                raise CannotFold(f"{where} runs at {len(places)} places that do not all agree")
            if not all(first.same_as(request) for request in asked[1:]):
                raise CannotFold(f"the places where {describe(first.op)} runs need different maps")
            chosen.append(first)
        return chosen

    def _check_takes_bias(self, op: Op) -> None:
        """A layer that a forward calls as a function gets its first bias by rewriting the forward.

        Raises:
            CannotFold: ``torch.fx`` cannot rewrite it.
        """
        layer = self.layer(op)
        if not layer.functional or layer.kind == "embedding":
            return
        if op not in self._rewritable:
            module = op.call.module
            self._rewritable[op] = cannot_rewrite(module, layer.op_name, layer.occurrence)
        reason = self._rewritable[op]
        if reason is not None:
            raise CannotFold(f"{describe(op)} has no bias: {reason}")

    def commit(self, requests: Sequence[Request]) -> tuple[str, ...]:
        """Take up agreed requests; returns the names of the layers and units that changed."""
        names = []
        for request in requests:
            unit = self.unit_at(request.op)
            if unit is not None:
                assert unit.affine is not None
                inner, outer = unit.affine, request.affine
                unit.affine = outer.after(inner) if request.after else inner.after(outer)
                unit.edited = True
                names.append(unit.name)
            else:
                layer = self.layer(request.op)
                self._take_up(self.pending_of(layer), request)
                names.append(layer.weight.rpartition(".")[0] or layer.weight)
        return tuple(names)

    def pending_of(self, layer: Layer) -> _Pending:
        """The edit of ``layer`` so far; at first its own weight and nothing else."""
        if layer.weight not in self.pending:
            rows = torch.ones(layer.out_channels, dtype=torch.float64)
            biased = layer.bias is not None
            self.pending[layer.weight] = _Pending(layer, [Term(layer, rows)], 0 * rows, biased)
        return self.pending[layer.weight]

    def layer_edits(self) -> tuple[LayerEdit, ...]:
        """All pending edits, as the plan holds them."""
        return tuple(
            LayerEdit(item.layer, tuple(item.terms), item.shift, item.biased)
            for item in self.pending.values()
        )

    @staticmethod
    def _take_up(pending: _Pending, request: Request) -> None:
        affine = request.affine
        pending.biased = pending.biased or affine.constant
        if request.after:
            pending.terms = [
                Term(term.source, term.rows * affine.scale, term.columns) for term in pending.terms
            ]
            pending.shift = pending.shift * affine.scale + affine.shift
        else:
            pending.terms = [
                Term(
                    term.source,
                    term.rows,
                    affine if term.columns is None else term.columns.after(affine),
                )
                for term in pending.terms
            ]
        if request.skip is not None:
            pending.terms.append(Term(None, request.skip))


def describe(op: Op) -> str:
    """An operator as a person would name it: its module, or the function and where it ran."""
    place = op.call.path or "the model's forward"
    own = {type(op.call.module).__name__.lower(), type(op.call.module).__name__}
    return place if op.name.rstrip("_").lower() in own else f"{op.name} in {place}"
