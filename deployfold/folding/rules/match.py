"""Which BatchNorm can go, by which rule; and for each that stays, why.

A rule is one small class with a ``name`` and a method ``propose`` that returns what has to be asked
of which layers, or raises :class:`CannotFold` with the reason. To add one, write its class and put
it into :data:`RULES`.
"""

from __future__ import annotations

from torch import nn

from deployfold.folding.graph.graph import Graph
from deployfold.folding.graph.unit import Unit, is_batchnorm_module
from deployfold.folding.graph.units import find_units
from deployfold.folding.modules import named_tensors

from .context import CannotFold, Context, Request
from .into_consumers import IntoConsumers
from .into_neighbours import IntoSurroundings
from .into_producer import IntoProducers
from .merge_branches import merge_branches
from .plan import Folded, Left, NormEdit, Plan, Removal

Rule = IntoProducers | IntoConsumers | IntoSurroundings

RULES: tuple[Rule, ...] = (IntoProducers(), IntoConsumers())
"""Tried in this order on every BatchNorm."""

LAST_RULES: tuple[Rule, ...] = (IntoSurroundings(),)
"""Tried when no branch can be merged any more: a branch that is merged takes its sum with it."""

_KEPT = (
    "without it the model's forward fails or its outputs change: its code seems to look at it, or "
    "at a tensor before or behind it, in a way that no trace shows"
)


def match(
    graph: Graph,
    model: nn.Module,
    *,
    reparam: bool = True,
    keep: frozenset[str] = frozenset(),
) -> Plan:
    """Decide on every BatchNorm of a traced model.

    Args:
        graph: the trace; it is used up.
        model: the traced model, for the values of its statistics.
        reparam: also merge parallel branches and fold constant scales (LayerScale).
        keep: names of units to leave, since without them the model was found to be another one.
    """
    tensors = dict(named_tensors(model))
    for name, value in graph.constants.items():
        if name not in graph.mutated:
            value.number = tensors[name].detach()
    units = find_units(graph, tensors)
    for unit in units:
        if unit.name in keep:
            unit.reason = _KEPT
    _skip_neutral(graph)
    context = Context(graph, [unit for unit in units if unit.is_batchnorm or reparam])
    folded: list[Folded] = []
    removals: list[Removal] = []
    reasons: dict[Unit, str] = {}

    def fold_by(rules: tuple[Rule, ...]) -> bool:
        before = len(folded)
        for unit in list(context.units):
            requests, rule = _propose(unit, context, rules, reasons)
            if requests is None:
                continue
            into = context.commit(requests)
            context.forget(unit)
            removals.extend(unit.removals)
            kind = "batchnorm" if unit.is_batchnorm else "scale"
            folded.append(Folded(unit.name, rule, into, kind))
        return len(folded) > before

    progress = True
    while progress:  # a branch that is merged, or a unit that goes, may free another
        progress = fold_by(RULES)
        if reparam:
            merged, silenced = merge_branches(context)
            folded += merged
            removals += silenced
            progress = progress or bool(merged)
        progress = progress or fold_by(LAST_RULES)
    left = [Left(unit.name, reasons.get(unit, "")) for unit in context.units if unit.is_batchnorm]
    left += _unreached(graph, model, {unit.name for unit in units})
    norms = tuple(
        NormEdit(unit.module_path, unit.affine)
        for unit in context.units
        if unit.edited and unit.affine is not None
    )
    return Plan(tuple(folded), tuple(left), context.layer_edits(), norms, tuple(removals))


def _skip_neutral(graph: Graph) -> None:
    """Let operators that change nothing be identities: ``sum()`` begins with ``0 + x``."""
    for op in list(graph.ops):
        other = op.arguments.get("other")
        if op.name == "add" and isinstance(other, (int, float)) and other == 0:
            graph.bypass(op)


def _propose(
    unit: Unit, context: Context, rules: tuple[Rule, ...], reasons: dict[Unit, str]
) -> tuple[list[Request] | None, str]:
    if unit.reason is not None:
        reasons[unit] = unit.reason
        return None, ""
    refusals = []
    for rule in rules:
        try:
            return rule.propose(unit, context), rule.name
        except CannotFold as refusal:
            refusals.append(str(refusal))
    reasons[unit] = "; ".join(dict.fromkeys(filter(None, refusals))) or reasons.get(unit, "")
    return None, ""


def _unreached(graph: Graph, model: nn.Module, seen: set[str]) -> list[Left]:
    called = {call.path for call in graph.calls}
    return [
        Left(
            path,
            "its class does not run a batch norm that can be recognised"
            if path in called
            else "the example inputs did not reach it",
        )
        for path, module in model.named_modules()
        if is_batchnorm_module(module) and path not in seen
    ]
