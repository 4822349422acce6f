"""Planning a fold: decide which rule folds each BatchNorm, or why the BatchNorm stays."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from torch import nn

from deployfold.folding.graph.affine_layer import AffineLayer, is_batchnorm_module
from deployfold.folding.graph.find_affine_layers import find_affine_layers
from deployfold.folding.graph.graph import Graph
from deployfold.folding.graph.norm_affine import norm_affines
from deployfold.folding.graph.plain_layers import write_plainly
from deployfold.folding.modules import named_tensors
from deployfold.folding.plan import LayerEdit, Left, NormEdit, Plan

from . import all_rules
from .at_each_place import AtEachPlace
from .context import Context
from .rule import Rule

UNSEEN_USE = (
    "without this layer the model's forward fails or its outputs change; the code seems to read"
    " the layer or a tensor next to it, or to compute with a size, where no trace shows that"
)


def match(
    graph: Graph,
    model: nn.Module,
    *,
    reparam: bool = True,
    norm_affine: bool = True,
    keep: Mapping[str, str] | None = None,
) -> Plan:
    """Plan the fold of every BatchNorm of a traced model.

    Args:
        graph: the trace, which planning changes; do not use it again.
        keep: affine layers and branches to leave, by name, each with its reason.
    """
    tensors = dict(named_tensors(model))
    for name, value in graph.constants.items():
        if name not in graph.mutated:
            value.number = tensors[name].detach()
    write_plainly(graph)
    affine_layers = find_affine_layers(graph, tensors)
    if norm_affine:
        affine_layers += norm_affines(graph, tensors)
    for item in affine_layers:
        if keep and item.name in keep:
            item.reason = keep[item.name]
    _skip_neutral(graph)
    context = Context(
        graph,
        {item: None for item in affine_layers if item.kind != "scale" or reparam},
        reparam=reparam,
        keep=frozenset(keep or ()),
    )
    _apply_all(all_rules(), context)
    left = [
        Left(item.name, _reason(item, context))
        for item in context.affine_layers
        if item.is_batchnorm
    ]
    left += _unreached(graph, model, {item.name for item in affine_layers})
    norms = tuple(
        NormEdit(item.module_path, item.affine) for item in context.affine_layers if item.edited
    )
    return Plan(
        tuple(context.folded),
        tuple(left),
        _in_order(context.pending.values()),
        norms,
        tuple(context.removals),
        tuple(context.faults),
    )


def _in_order(edits: Collection[LayerEdit]) -> tuple[LayerEdit, ...]:
    """The edits, where the last one of each weight writes it after all have read it."""
    writers = {edit.layer.weight: edit for edit in edits}
    others = [edit for edit in edits if writers[edit.layer.weight] is not edit]
    return (*(replace(edit, bias_only=True) for edit in others), *writers.values())


def _apply_all(rules: Sequence[Rule], context: Context) -> None:
    """Try the rules in order; start again at the first one whenever a rule folded something."""
    pending = list(rules)
    while pending:
        rule = pending.pop(0)
        try:
            folded = rule.apply(context)
        except Exception as error:  # a bug in the rule, so only the other rules go on
            context.report_fault(None, rule.name, error)
            rules = [other for other in rules if other is not rule]
            folded = True
        if folded:
            pending = list(rules)


def _reason(affine_layer: AffineLayer, context: Context) -> str:
    if affine_layer.reason is not None:
        return affine_layer.reason
    rules: dict[str, list[str]] = {}
    refusals = dict(context.refusals.get(affine_layer, {}))
    if AtEachPlace.name in refusals:  # the reason names both sides
        refusals = {rule: why for rule, why in refusals.items() if rule not in AtEachPlace.covers}
    for rule, reason in refusals.items():
        rules.setdefault(reason, []).append(rule)
    found = "; ".join(f"not {' or '.join(names)}: {why}" for why, names in rules.items())
    return found or "no rule applies to it"


def _skip_neutral(graph: Graph) -> None:
    """Bypass additions of zero, which Python's ``sum()`` makes: it begins with ``0 + x``."""
    for op in graph.ops:
        other = op.arguments.get("other")
        if op.name == "add" and isinstance(other, (int, float)) and other == 0:
            graph.bypass(op)


def _unreached(graph: Graph, model: nn.Module, seen: set[str]) -> list[Left]:
    called = {call.path for call in graph.calls}
    read = {name.rpartition(".")[0] for name, value in graph.constants.items() if value.consumers}

    def reason(path: str) -> str:
        if path in called:
            return "its class does not run a batch norm that can be recognised"
        if path in read:
            return "it is not called; other code reads its numbers, in a way that is not recognised"
        return "the example inputs did not reach it"

    return [
        Left(path, reason(path))
        for path, module in model.named_modules()
        if is_batchnorm_module(module) and path not in seen
    ]
