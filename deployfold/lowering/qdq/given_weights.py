"""Folds BatchNorms into the scales of quantised weights, without a change to any code.

:class:`VisibleWeights` shows the dequantised weights to the fold, and turns the folded weights into
codes and scales again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from deployfold.exporting.session import Array

from .layers import initializer
from .qdq_nodes import DEQUANTISE, constant, dequantised, drop_unused, scales


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
        self._weights = [_show(layer, axis) for layer, axis in _foldable(model.graph)]

    def hide(self) -> None:
        """Put every DequantizeLinear back, with the scales times the factors of the fold."""
        for one in self._weights:
            current = one.layer.inputs[1]
            assert current is not None
            assert current.const_value is not None
            weight = np.moveaxis(current.const_value.numpy().astype(np.float64), one.axis, 0)
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
        shown = one.layer.inputs[1]
        assert shown is not None
        value = node.outputs[0]
        value.type, value.shape = shown.type, shown.shape
        one.layer.replace_input_with(1, value)
        value.name = name
        self._graph.insert_before(one.layer, node)


def _foldable(graph: ir.Graph) -> Iterator[tuple[ir.Node, int]]:
    """The layers with a dequantised weight and a BatchNorm behind, with their channel axis."""
    for node in list(graph):
        axis = _channel_axis(node)
        weight = node.inputs[1] if axis is not None else None
        maker = None if weight is None else weight.producer()
        if axis is None or weight is None or maker is None or maker.op_type != DEQUANTISE:
            continue
        codes = constant(maker.inputs[0])
        whole = codes is None or "block_size" in maker.attributes or len(weight.uses()) != 1
        if whole or not _norm_behind(node):
            continue
        lowest = -127 if codes is not None and codes.dtype == np.int8 else -np.inf
        if codes is not None and codes.astype(np.float32).min() >= lowest:  # the sign may change
            yield node, axis


def _norm_behind(node: ir.Node) -> bool:
    users = [user for user, _ in node.outputs[0].uses()]
    if len(users) == 1 and users[0].op_type == "Add":
        users = [user for user, _ in users[0].outputs[0].uses()]
    return [user.op_type for user in users] == ["BatchNormalization"]


def _channel_axis(node: ir.Node) -> int | None:
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if node.attributes.get_int("group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return 1 if node.op_type == "MatMul" else None


def _show(layer: ir.Node, axis: int) -> _Weight:
    weight = layer.inputs[1]
    assert weight is not None
    dequantise = weight.producer()
    assert dequantise is not None
    assert dequantise.graph is not None
    codes = constant(dequantise.inputs[0])
    assert codes is not None
    graph: Any = dequantise.graph
    steps, name = scales(dequantise), str(weight.name)
    shown = initializer(graph, f"{name}.float", dequantised(codes, dequantise))
    layer.replace_input_with(1, shown)
    graph.remove(dequantise, safe=True)
    return _Weight(layer, name, codes, steps, axis)
