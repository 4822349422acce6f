"""Constants, initialisers and inner graphs of ONNX graphs in onnx_ir."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from deployfold.util.arrays import Array

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""The operators with a weight that folding and lowering change."""


def constant(value: ir.Value | None) -> Array | None:
    """The values of an initialiser; ``None`` for a computed value or a graph input."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return np.asarray(value.const_value.numpy())


def initializer(graph: ir.Graph, name: str, array: Any) -> ir.Value:
    """Add an initialiser to ``graph``; a name in use already gets a number appended."""
    unique, number = name, 1
    while unique in graph.initializers:
        unique, number = f"{name}_{number}", number + 1
    tensor = ir.tensor(np.ascontiguousarray(array).reshape(np.shape(array)), name=unique)
    value = ir.Value(
        name=unique, const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype)
    )
    graph.register_initializer(value)
    return value


def drop_unused(graph: ir.Graph) -> None:
    """Remove the initialisers that nothing reads, in place."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def inner_graphs(node: ir.Node) -> list[ir.Graph]:
    """The branches and bodies of a control flow node; empty for any other node."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found += attribute.as_graphs()
    return found


def with_inner(node: ir.Node) -> Iterator[ir.Node]:
    """A node, and those inside it where it is control flow."""
    yield node
    for graph in inner_graphs(node):
        yield from ir.traversal.RecursiveGraphIterator(graph)


def values_read(node: ir.Node) -> set[ir.Value]:
    """The values that a node reads, with those that the nodes inside it read."""
    return {value for one in with_inner(node) for value in one.inputs if value is not None}
