"""The graph of an ONNX as a list: what each node is, computes and weighs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployfold.errors import UsageError
from deployfold.util.onnx_files import dims_of, graph_inputs, read_graph

NODES = 2000
"""Nodes that are listed; a page with more is slow to open."""


@dataclass(frozen=True)
class Node:
    """``shape`` is of the first output, ``weights`` the number of its constant elements."""

    op_type: str
    name: str
    shape: str
    weights: int


@dataclass(frozen=True)
class Outline:
    """The main graph, in the order in which it is computed; ``hidden`` nodes are not listed."""

    file: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    hidden: int


def read_outline(path: Path) -> Outline:
    """Read the graph of an ONNX file, without its weights.

    Raises:
        UsageError: it cannot be read as ONNX.
    """
    try:
        graph = read_graph(path)
    except Exception as error:
        raise UsageError(f"{path} cannot be read as ONNX.") from error
    values = (*graph.input, *graph.value_info, *graph.output)
    shapes = {value.name: _shape(value) for value in values}
    weights = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
    nodes = tuple(
        Node(
            op_type=node.op_type,
            name=node.name,
            shape=shapes.get(node.output[0], "") if node.output else "",
            weights=sum(weights.get(name, 0) for name in node.input),
        )
        for node in graph.node[:NODES]
    )
    given = [value.name for value in graph_inputs(graph)]
    return Outline(
        file=path.name,
        inputs=tuple(f"{name} {shapes[name]}" for name in given),
        outputs=tuple(f"{value.name} {shapes[value.name]}" for value in graph.output),
        nodes=nodes,
        hidden=len(graph.node) - len(nodes),
    )


def _shape(value: Any) -> str:
    if not value.type.tensor_type.HasField("shape"):
        return ""
    return "×".join(str(size or "?") for size in dims_of(value))
