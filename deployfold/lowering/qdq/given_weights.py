"""Folds BatchNorms into the scales of quantised weights, without a change to any code.

:class:`VisibleWeights` shows the dequantised weights to the fold, and turns the folded weights into
codes and scales again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from deployfold.lowering.graph import operand, weight_of
from deployfold.util.arrays import Array
from deployfold.util.onnx_values import constant, drop_unused, initializer

from .qdq_nodes import DEQUANTISE, dequantised, scales


@dataclass(frozen=True, eq=False)
class _Weight:
    """A weight whose DequantizeLinear is out of the graph for the time of the fold.

    Attributes:
        layer: the node that reads the weight.
        name: the name of the dequantised weight, and of the node that made it.
        codes, steps: what the node read.
        axis: the axis of output channels.
    """

    layer: ir.Node
    name: str
    codes: Array
    steps: Array
    axis: int


class VisibleWeights:
    """Shows the weights behind DequantizeLinear nodes as float weights while BatchNorms fold.

    Only weights of layers with a BatchNorm behind are shown, because only their output channels are
    scaled then.
    """

    def __init__(self, model: ir.Model) -> None:
        self._graph = model.graph
        self._weights = [_show(model.graph, *found) for found in _foldable(model.graph)]

    def hide(self) -> None:
        """Put every DequantizeLinear back, with the scales times the factors of the fold."""
        for one in self._weights:
            current = weight_of(operand(one.layer, 1)).numpy().astype(np.float64)
            weight = np.moveaxis(current, one.axis, 0)
            codes = np.moveaxis(one.codes.astype(np.float64), one.axis, 0)
            flat = codes.reshape(len(codes), -1)
            largest = np.abs(flat).argmax(1)[:, None]
            top = np.take_along_axis(flat, largest, 1)[:, 0]
            scaled = np.take_along_axis(weight.reshape(len(codes), -1), largest, 1)[:, 0]
            # A channel of zeros keeps its scale, which no output depends on.
            given = np.broadcast_to(one.steps, (len(codes),))
            steps = np.where(top == 0, given, scaled / np.where(top == 0, 1, top))
            signs = np.where(steps < 0, -1.0, 1.0).reshape(-1, *[1] * (codes.ndim - 1))
            stored = np.moveaxis(codes * signs, 0, one.axis).astype(one.codes.dtype)
            self._put_back(one, stored, np.abs(steps).astype(np.float32))
        drop_unused(self._graph)

    def _put_back(self, one: _Weight, codes: Array, steps: Array) -> None:
        name = one.name
        inputs = [
            initializer(self._graph, f"{name}.codes", codes),
            initializer(self._graph, f"{name}.scale", steps),
            initializer(self._graph, f"{name}.zero_point", np.zeros(len(steps), codes.dtype)),
        ]
        node = ir.node(DEQUANTISE, inputs, attributes={"axis": one.axis}, name=name)
        shown, value = operand(one.layer, 1), node.outputs[0]
        value.type, value.shape = shown.type, shown.shape
        one.layer.replace_input_with(1, value)
        value.name = name
        self._graph.insert_before(one.layer, node)


def join_scalings(graph: ir.Graph) -> None:
    """Move constant factors and addends in front of a BatchNorm into its parameters, in place.

    With ``BN(z) = (z - mean) * gamma / sigma + beta``:

    1. ``z = x + b``: the mean becomes ``mean - b``;
    2. ``z = x * k``: the mean becomes ``mean / k``, and gamma ``gamma * k``;
    3. ``z = x / k``: as 2 with ``1 / k``.
    """
    for norm in [node for node in graph if node.op_type == "BatchNormalization"]:
        while (found := _scaling(norm)) is not None:
            node, position, numbers = found
            gamma, mean = (constant(norm.inputs[index]) for index in (1, 3))
            if gamma is None or mean is None:
                break
            if node.op_type == "Add":
                changed = {3: mean - numbers}
            else:
                factor = numbers if node.op_type == "Mul" else 1.0 / numbers
                changed = {1: gamma * factor, 3: mean / factor}
            for index, array in changed.items():
                name = f"{norm.inputs[index].name}.joined"
                new = initializer(graph, name, np.asarray(array, np.float32))
                norm.replace_input_with(index, new)
            norm.replace_input_with(0, node.inputs[1 - position])
            graph.remove(node, safe=True)


def _scaling(norm: ir.Node) -> tuple[ir.Node, int, Array] | None:
    """The node in front of a BatchNorm that adds or multiplies a constant for each channel.

    Returns:
        The node, the position of the constant, and its numbers in float64; ``None`` without one.
    """
    source = norm.inputs[0]
    node = None if source is None else source.producer()
    if node is None or source is None or node.op_type not in ("Add", "Mul", "Div") or node.domain:
        return None
    if len(source.uses()) != 1 or source.is_graph_output() or source.shape is None:
        return None
    rank, channels = len(source.shape), constant(norm.inputs[3])
    for position in (1,) if node.op_type == "Div" else (1, 0):
        numbers = constant(node.inputs[position])
        if numbers is None or channels is None:
            continue
        shape = (1,) * (rank - numbers.ndim) + numbers.shape
        alone = numbers.size == 1 or (len(shape) == rank and shape[1] == numbers.size)
        if (
            alone
            and numbers.size in (1, channels.size)
            and (node.op_type == "Add" or numbers.all())
        ):
            return node, position, numbers.reshape(-1).astype(np.float64)
    return None


def _foldable(graph: ir.Graph) -> Iterator[tuple[ir.Node, ir.Node, Array, int]]:
    """The layers with a dequantised weight and a BatchNorm behind.

    Yields:
        The layer, the node that dequantises its weight, the codes, and the axis of output channels.
    """
    for node in list(graph):
        axis = _channel_axis(node)
        weight = node.inputs[1] if axis is not None else None
        maker = None if weight is None else weight.producer()
        if axis is None or weight is None or maker is None or maker.op_type != DEQUANTISE:
            continue
        codes = constant(maker.inputs[0])
        norm = _norm_behind(node)
        gamma = None if norm is None else constant(norm.inputs[1])
        if codes is None or gamma is None or len(weight.uses()) != 1:
            continue
        if "block_size" in maker.attributes:
            continue
        # A negative factor turns the signs of the codes, and int8 has -128 but not 128.
        if (gamma > 0).all() or codes.dtype != np.int8 or codes.min() > np.iinfo(np.int8).min:
            yield node, maker, codes, axis


def _norm_behind(node: ir.Node) -> ir.Node | None:
    users = [user for user, _ in node.outputs[0].uses()]
    if len(users) == 1 and users[0].op_type == "Add":
        users = [user for user, _ in users[0].outputs[0].uses()]
    only = users[0] if len(users) == 1 else None
    return only if only is not None and only.op_type == "BatchNormalization" else None


def _channel_axis(node: ir.Node) -> int | None:
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if node.attributes.get_int("group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return 1 if node.op_type == "MatMul" else None


def _show(graph: ir.Graph, layer: ir.Node, maker: ir.Node, codes: Array, axis: int) -> _Weight:
    steps, name = scales(maker), str(maker.outputs[0].name)
    shown = initializer(graph, f"{name}.float", dequantised(codes, maker))
    layer.replace_input_with(1, shown)
    graph.remove(maker, safe=True)
    return _Weight(layer, name, codes, steps, axis)
