"""Finds the layers in which two forms of a model differ by design, around folded BatchNorms.

Folding changes only the values between a BatchNorm and the layer that takes it up. The fold plan of
the form with the BatchNorms shows which values these are. The other values are compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn

from deployfold.folding.graph.find_affine_layers import count_batchnorms
from deployfold.folding.graph.graph import Graph, Op, Value
from deployfold.folding.graph.trace import trace
from deployfold.folding.plan import Folded
from deployfold.folding.rules.match import match

from .side import Folds, LayerOutput

Inputs = tuple[torch.Tensor, ...]
Tensors = Mapping[str, tuple[int, ...]]


def find_folds(
    module: nn.Module, inputs: Inputs, graph: Graph, points: Sequence[LayerOutput], others: Tensors
) -> Folds:
    """The values that differ by design in ``graph``, the trace of ``module`` on ``inputs``.

    Args:
        module: the form with the BatchNorms.
        inputs: the arguments of one forward.
        points: the points of the module; their ``tensor`` is a value of the graph.
        others: the shapes of the other form's tensors, by name.
    """
    own = dict(_shapes(module))
    if not count_batchnorms(module) and own.keys() <= others.keys():
        return Folds()
    plan = match(trace(module, inputs), module)  # match() changes the graph, so trace again
    gone = [item for item in plan.folded if _is_gone(item.name, own, others)]
    taking = [path for item in gone for path in item.into]
    interior: set[Value] = set()
    by_tensor: dict[Hashable, list[LayerOutput]] = {}
    for one in points:
        by_tensor.setdefault(one.tensor, []).append(one)
    taken_up: dict[LayerOutput, LayerOutput] = {}
    for item in gone:
        sites = _sites(graph, item.name)
        into = [op for op in graph.ops if op.call.path in item.into and _reads_weights(op)]
        found = _between(graph, item, sites, into)
        interior |= found
        alone = len(item.into) == 1 and taking.count(item.into[0]) == 1
        if not alone or len(sites) != len(into) or _stands_before(graph, sites, into):
            continue
        for site, op in zip(sites, into, strict=True):
            layers = by_tensor.get(op.output, [])
            if layers and op.output in site.inputs and len(site.outputs) == 1:
                # A container that ends with the BatchNorm has the same output.
                taken_up |= dict.fromkeys(by_tensor.get(site.outputs[0], []), layers[0])
    return Folds(frozenset(interior), taken_up)


class _Site(NamedTuple):
    """A use of what was folded: a call of a module, or an operator that reads a parameter."""

    inputs: Sequence[Value]
    outputs: Sequence[Value]


def _sites(graph: Graph, name: str) -> list[_Site]:
    calls = [_Site(call.inputs, call.outputs) for call in graph.calls if call.path == name]
    return calls or [
        _Site(op.inputs, (op.output,))
        for op in graph.ops
        if any(value.constant and value.name == name for value in op.inputs)
    ]


def _shapes(module: nn.Module) -> Iterable[tuple[str, tuple[int, ...]]]:
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        yield name, tuple(tensor.shape)


def _is_gone(name: str, own: Tensors, others: Tensors) -> bool:
    """Whether the other form lacks a tensor of this module, or this parameter."""
    mine = [key for key in own if key == name or key.startswith(f"{name}.")]
    return any(others.get(key) != own[key] for key in mine if not key.endswith("_tracked"))


def _reads_weights(op: Op) -> bool:
    return any(value.constant and value.name is not None for value in op.inputs)


def _stands_before(graph: Graph, sites: Sequence[_Site], into: Sequence[Op]) -> bool:
    """Whether every layer in ``into`` runs after the ``sites``."""
    makers = [value.producer for site in sites for value in site.outputs]
    if not into or not makers:
        return False
    order = graph.operators
    last = max((order[op] for op in makers if op is not None and op in order), default=0)
    return all(order[op] > last for op in into)


def _between(graph: Graph, item: Folded, sites: Sequence[_Site], into: Sequence[Op]) -> set[Value]:
    """The values that folding one BatchNorm, scale or branch changes."""
    own = {value.producer for site in sites for value in site.outputs}
    if _stands_before(graph, sites, into):
        before = _reach([op.inputs[0] for op in into], _sources, own)
        outputs = [value for site in sites for value in site.outputs]
        return _reach(outputs, _results, set(into)) & before
    after = _reach([op.output for op in into], _results, own)
    inputs = [value for site in sites for value in site.inputs]
    if item.kind != "branch" and inputs and after.intersection(inputs):
        return _reach(inputs, _sources, set(into)) & after
    merged = [op for op in graph.ops if op.call.path == item.name and _reads_weights(op)]
    if len(merged) != len(into):
        return after
    pairs = zip(into, merged, strict=True)
    return {value for pair in pairs for value in _until_they_meet(graph, *pair)}


def _until_they_meet(graph: Graph, first: Op, second: Op) -> set[Value]:
    """The values of two parallel branches up to their sum, without the sum."""
    order = graph.operators
    one, other = (_reach([op.output], _results, set()) for op in (first, second))
    meeting = min((order[v.producer] for v in one & other if v.producer), default=math.inf)
    return {v for v in one | other if v.producer is not None and order[v.producer] < meeting}


def _reach(
    start: Iterable[Value],
    step: Callable[[Value, Container[Op | None]], Iterable[Value]],
    ends: Container[Op | None],
) -> set[Value]:
    """All values reachable from ``start`` without passing through the operators ``ends``."""
    found: set[Value] = set()
    waiting = list(start)
    while waiting:
        value = waiting.pop()
        if value not in found:
            found.add(value)
            waiting.extend(step(value, ends))
    return found


def _results(value: Value, ends: Container[Op | None]) -> Iterable[Value]:
    return [one for op in value.consumers if op not in ends for one in op.outputs]


def _sources(value: Value, ends: Container[Op | None]) -> Iterable[Value]:
    if value.producer is None or value.producer in ends:
        return []
    return [one for one in value.producer.inputs if not one.constant]
