"""Cuts a graph in two before the first operators that an engine cannot have.

The head is everything that does not depend on such an operator; the tail is these operators, all
that depends on them, and what computes integers and booleans for them alone. The tail gives all
outputs of the model; those that the head has already pass through it.

A TopK at the end of the model goes to the tail as well. The least error of its scores can exchange
two boxes, so that the outputs of a lowered head would show nothing of its accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
import onnxruntime as ort
from onnx_ir.passes import common

from deployfold.runtimes.tail_name import PASSED
from deployfold.util.arrays import Array
from deployfold.util.onnx_values import LAYERS, values_read, with_inner

from .onnx_graph import module_of
from .session import run_session


@dataclass(frozen=True, eq=False)
class Split:
    """A graph in two parts.

    Attributes:
        between: names of the tensors that the head gives and the tail takes.
        place: the first operator of the tail, see :func:`place_of`.
        op_type: of that operator.
    """

    head: ir.Model
    tail: ir.Model
    between: tuple[str, ...]
    place: str
    op_type: str
    tail_nodes: int


def place_of(node: ir.Node, missing: Mapping[str, str]) -> tuple[str, str]:
    """The operator of ``missing`` that a node is or holds, and the same with node and module.

    The module is that of the user's code, as ``Det 'node_Det_9' of the module 'head'``, where the
    graph tells it.
    """
    own = next(one.op_type for one in with_inner(node) if one.op_type in missing)
    module = module_of(node)
    inside = f" of the module {module!r}" if module else ""
    return own, f"{own} {str(node.name)!r}{inside}"


def find_missing(model: ir.Model, missing: Mapping[str, str]) -> ir.Node | None:
    """The first node of the main graph that is, or holds, an operator of ``missing``."""
    for node in model.graph:
        if any(one.op_type in missing and not one.domain for one in with_inner(node)):
            return node
    return None


def split(model: ir.Model, missing: Mapping[str, str]) -> Split | None:
    """Cut ``model`` before the operators of ``missing``; ``None`` if it has none.

    Args:
        model: prepared; it is not changed.

    Returns:
        The two parts; ``None`` as well where no layer with weights would be left for the head.
    """
    first = find_missing(model, missing)
    if first is None:
        return None
    tail = _dependent(model.graph, missing)
    choice = _dependent(model.graph, CHOOSING)
    if not any(one.op_type in LAYERS for node in choice for one in with_inner(node)):
        tail |= choice
    _pull(model.graph, tail)
    between = _between(model.graph, tail)
    if not between or len(tail) == len(model.graph):
        return None
    if any(node.op_type in LAYERS for node in tail) and first.op_type in CHOOSING:
        return None
    if not any(node.op_type in LAYERS for node in model.graph if node not in tail):
        return None
    names = [str(value.name) for value in between]
    kept = {str(node.name) for node in tail}
    head_graph, tail_graph = model.clone(), model.clone()
    _make_head(head_graph.graph, kept, names)
    _make_tail(tail_graph.graph, kept, names)
    for part in (head_graph, tail_graph):
        common.RemoveUnusedNodesPass()(part)
    operator, place = place_of(first, missing)
    return Split(
        head=head_graph,
        tail=tail_graph,
        between=tuple(names),
        place=place,
        op_type=operator,
        tail_nodes=len(tail_graph.graph),
    )


CHOOSING = {"TopK": "it orders by values, which lowering changes"}
"""Operators that cut a model at the user's wish alone, each with the reason."""


def run_tail(
    session: ort.InferenceSession, feed: Mapping[str, Array], between: Mapping[str, Array]
) -> tuple[Array, ...]:
    """The model's outputs, of its inputs and of what its head gave, by name.

    Raises:
        ExportError: ONNX Runtime fails.
    """
    passed = {f"{name}{PASSED}": value for name, value in between.items()}
    return run_session(session, {**feed, **between, **passed})


def _dependent(graph: ir.Graph, missing: Mapping[str, str]) -> set[ir.Node]:
    """The nodes that are of ``missing`` or depend on one."""
    found: set[ir.Node] = set()
    values: set[ir.Value] = set()
    for node in graph:  # sorted: a producer comes before its readers
        lacking = any(one.op_type in missing and not one.domain for one in with_inner(node))
        if lacking or values_read(node) & values:
            found.add(node)
            values |= set(node.outputs)
    return found


def _pull(graph: ir.Graph, tail: set[ir.Node]) -> None:
    """Add nodes that give integers or booleans to the tail alone: masks, shapes, indices."""
    readers: dict[ir.Value, set[ir.Node]] = {}
    for node in graph:
        for value in values_read(node):
            readers.setdefault(value, set()).add(node)
    for node in reversed(list(graph)):
        if node in tail:
            continue
        for_tail = all(
            not value.is_graph_output()
            and readers.get(value, set()) <= tail
            and value.dtype is not None
            and not value.dtype.is_floating_point()
            for value in node.outputs
        )
        if for_tail and any(readers.get(value) for value in node.outputs):
            tail.add(node)


def _between(graph: ir.Graph, tail: set[ir.Node]) -> list[ir.Value]:
    """The values that the head computes and the tail reads or the model returns, in graph order."""
    read = {value for node in tail for value in values_read(node)} | set(graph.outputs)
    return [value for node in graph if node not in tail for value in node.outputs if value in read]


def _make_head(graph: ir.Graph, tail: set[str], between: list[str]) -> None:
    values = {str(value.name): value for node in graph for value in node.outputs}
    graph.outputs.clear()
    _remove(graph, [node for node in graph if node.name in tail])
    graph.outputs.extend(values[name] for name in between)


def _make_tail(graph: ir.Graph, tail: set[str], between: list[str]) -> None:
    values = {str(value.name): value for node in graph for value in node.outputs}
    results = list(graph.outputs)
    graph.outputs.clear()
    entries = {
        name: ir.Input(name, shape=values[name].shape, type=values[name].type) for name in between
    }
    for name, entry in entries.items():
        ir.convenience.replace_all_uses_with(values[name], entry)
    passing = {values[name]: entry for name, entry in entries.items()}
    _remove(graph, [node for node in graph if node.name not in tail])
    for number, result in enumerate(results):
        if result in passing:  # a graph output has another name than an input
            entry, name = passing[result], str(result.name)
            entry.name = f"{name}{PASSED}"
            copy = ir.node("Identity", [entry], name=f"{name}__pass")
            copy.outputs[0].name = name
            copy.outputs[0].shape, copy.outputs[0].type = result.shape, result.type
            graph.append(copy)
            results[number] = copy.outputs[0]
    graph.outputs.extend(results)
    read = {value for node in graph for value in values_read(node)}
    own = [value for value in graph.inputs if value in read]
    graph.inputs.clear()
    graph.inputs.extend([*own, *entries.values()])


def _remove(graph: ir.Graph, nodes: list[ir.Node]) -> None:
    for node in nodes:
        for inner in list(with_inner(node))[1:]:  # nodes of a branch or body go with their owner
            for index in range(len(inner.inputs)):
                inner.replace_input_with(index, None)
    graph.remove(nodes, safe=True)
