"""One BatchNormalization node, the layers that take it up, and their new constants.

A change is data until it is applied. The proof applies it to a small graph of its own, in float64;
:func:`apply` applies it to the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[Any]

PRODUCER = "into the producer"
CONSUMERS = "into the consumers"
"""The rules by name, as reports show them."""


@dataclass(frozen=True, eq=False)
class LayerChange:
    """New constants for one node.

    Attributes:
        node: a Conv, ConvTranspose, Gemm or MatMul, or the Add of a constant behind one.
        constants: float64 arrays by the position of the input that they replace.
        attributes: attributes with a new value.
        shift: a float64 array to add to the output, for a node that has no place for a bias.
    """

    node: ir.Node
    constants: Mapping[int, Array]
    attributes: Mapping[str, float] = field(default_factory=dict)
    shift: Array | None = None


@dataclass(frozen=True, eq=False)
class Change:
    """A BatchNormalization node that goes.

    Attributes:
        norm: the node.
        rule: the rule that found the change.
        layers: the nodes that take it up, in graph order.
        probe: a shape on which the change can be proved, of the tensor that enters the first node
            of ``layers`` and ``norm``.
    """

    norm: ir.Node
    rule: str
    layers: tuple[LayerChange, ...]
    probe: tuple[int, ...]

    @property
    def into(self) -> tuple[str, ...]:
        """Names of the layers that take the BatchNorm up."""
        return tuple(label(one.node) for one in self.layers if one.node.op_type != "Add")


def label(node: ir.Node) -> str:
    """The name of a node for people: its own, or that of its first output."""
    return str(node.name or node.outputs[0].name)


def constant(value: ir.Value | None) -> Array | None:
    """The number or array of an initialiser; ``None`` for a computed value or an input."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return np.asarray(value.const_value.numpy())


def apply(change: Change, graph: ir.Graph) -> None:
    """Remove the node from ``graph`` and give the layers their new constants, in place.

    The new constants have the dtype of those that they replace.
    """
    norm = change.norm
    for one in change.layers:
        _apply_layer(one, graph)
    source, result = norm.inputs[0], norm.outputs[0]
    assert source is not None
    name = result.name
    ir.convenience.replace_all_uses_with(result, source, replace_graph_outputs=True)
    graph.remove(norm, safe=True)
    if change.rule == PRODUCER:  # nothing else reads the source, and an output keeps its name
        result.name = None
        source.name = name


def _apply_layer(one: LayerChange, graph: ir.Graph) -> None:
    node = one.node
    reference = next(v for v in node.inputs if v is not None and constant(v) is not None)
    assert reference.dtype is not None
    dtype = reference.dtype
    for position, array in one.constants.items():
        while len(node.inputs) <= position:
            node.resize_inputs(position + 1)
        before = node.inputs[position]
        name = f"{label(node)}.bias" if before is None else str(before.name)
        node.replace_input_with(position, _initializer(graph, name, array, dtype, before))
    for name, number in one.attributes.items():
        node.attributes[name] = ir.AttrFloat32(name, number)
    if one.shift is not None:
        _add_behind(node, one.shift, graph, dtype)


def _initializer(
    graph: ir.Graph, name: str, array: Array, dtype: ir.DataType, before: ir.Value | None
) -> ir.Value:
    """A new initialiser, under the name of the one that it replaces if no other node reads that."""
    if before is not None and len(before.uses()) == 1 and not before.is_graph_output():
        before.const_value = ir.tensor(array.astype(dtype.numpy()), name=name)
        before.shape = ir.Shape(array.shape)
        return before
    number, free = 1, name
    while free in graph.initializers:
        number += 1
        free = f"{name}_{number}"
    tensor = ir.tensor(array.astype(dtype.numpy()), name=free)
    value = ir.Value(
        name=free,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def _add_behind(node: ir.Node, shift: Array, graph: ir.Graph, dtype: ir.DataType) -> None:
    """Add a constant to the output of ``node``, which keeps its name for what reads it."""
    result = node.outputs[0]
    value = _initializer(graph, f"{label(node)}.bias", shift, dtype, None)
    added = ir.node("Add", [result, value], name=f"{label(node)}.shift")
    moved = added.outputs[0]
    moved.shape, moved.type = result.shape, result.type
    graph.insert_after(node, added)
    name = result.name
    for user, position in tuple(result.uses()):
        if user is not added:
            user.replace_input_with(position, moved)
    for position, output in enumerate(graph.outputs):
        if output is result:
            graph.outputs[position] = moved
    result.name, moved.name = f"{name}.product", name
