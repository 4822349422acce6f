"""The fold of one BatchNormalization node: the node, its target layers and their new constants.

A change is data until :func:`apply` applies it to the model. Before that, the proof applies the
change to a small graph in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from deployfold.util.arrays import Array
from deployfold.util.onnx_values import constant, initializer

PRODUCER = "into the producer"
CONSUMERS = "into the consumers"
"""The names of the two rules in reports."""


@dataclass(frozen=True, eq=False)
class LayerChange:
    """The new constants of one node that a BatchNormalization is folded into.

    Attributes:
        node: a Conv, ConvTranspose, Gemm or MatMul, or an Add of a constant behind such a node.
        constants: float64 arrays by the position of the input that they replace.
        shift: a float64 array to add to the output of a node without a bias input.
    """

    node: ir.Node
    constants: Mapping[int, Array]
    attributes: Mapping[str, float] = field(default_factory=dict)
    shift: Array | None = None


@dataclass(frozen=True, eq=False)
class Change:
    """The fold of one BatchNormalization node.

    Attributes:
        layers: the nodes that the BatchNormalization is folded into, in graph order.
        probe: the shape of a random input for the proof; the input enters the first of the nodes
            ``layers`` and ``norm``.
    """

    norm: ir.Node
    rule: str
    layers: tuple[LayerChange, ...]
    probe: tuple[int, ...]

    @property
    def into(self) -> tuple[str, ...]:
        """The names of the layers that the BatchNorm is folded into."""
        return tuple(label(one.node) for one in self.layers if one.node.op_type != "Add")


def label(node: ir.Node) -> str:
    """The name of a node for reports: its own name, or the name of its first output."""
    return str(node.name or node.outputs[0].name)


def apply(change: Change, graph: ir.Graph) -> None:
    """Remove the BatchNormalization from ``graph`` and set the new constants, in place.

    The new constants take the dtype of the layer's first constant input.
    """
    norm = change.norm
    for one in change.layers:
        _apply_layer(one, graph)
    source, result = norm.inputs[0], norm.outputs[0]
    if source is None:
        raise ValueError(f"{label(norm)} has no input")
    name = result.name
    ir.convenience.replace_all_uses_with(result, source, replace_graph_outputs=True)
    graph.remove(norm, safe=True)
    if change.rule == PRODUCER:  # the source has no other reader; keep the output's name
        result.name = None
        source.name = name


def _apply_layer(one: LayerChange, graph: ir.Graph) -> None:
    node = one.node
    constants = (one for one in node.inputs if one is not None and constant(one) is not None)
    dtype = next(one.dtype for one in constants if one.dtype is not None)
    for position, array in one.constants.items():
        while len(node.inputs) <= position:
            node.resize_inputs(position + 1)
        before = node.inputs[position]
        name = f"{label(node)}.bias" if before is None else str(before.name)
        node.replace_input_with(position, _numbers(graph, name, array, dtype, before))
    for name, number in one.attributes.items():
        node.attributes[name] = ir.AttrFloat32(name, number)
    if one.shift is not None:
        _add_behind(node, one.shift, graph, dtype)


def _numbers(
    graph: ir.Graph, name: str, array: Array, dtype: ir.DataType, before: ir.Value | None
) -> ir.Value:
    """Give ``before`` the new numbers, or make a new initialiser if ``before`` has other uses."""
    if before is not None and len(before.uses()) == 1 and not before.is_graph_output():
        before.const_value = ir.tensor(array.astype(dtype.numpy()), name=name)
        before.shape = ir.Shape(array.shape)
        return before
    return initializer(graph, name, array.astype(dtype.numpy()))


def _add_behind(node: ir.Node, shift: Array, graph: ir.Graph, dtype: ir.DataType) -> None:
    """Add a constant to the output of ``node``; the sum takes over the readers and the name."""
    result = node.outputs[0]
    value = initializer(graph, f"{label(node)}.bias", shift.astype(dtype.numpy()))
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
