"""A graph that rounds as float16 hardware does, on a CPU that computes in float32.

ONNX Runtime's CPU provider has hardly any float16 kernels: it runs such nodes in float32 and drops
the roundings in between, so that a value of 120,000 passes unharmed and accuracy looks better than
it is. Only a Cast that stands in the graph is obeyed. So every float16 tensor of a lowered model is
turned into a float32 one that is cast to float16 and back: the arithmetic of a kernel that
accumulates in float32 and stores float16, which is what TensorRT's do.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .fp16_convert import cast

_HALF = ir.DataType.FLOAT16
_SINGLE = ir.DataType.FLOAT


def emulate(model: ir.Model) -> None:
    """Rewrite a lowered model in place; inputs and outputs keep names and dtypes."""
    graph = model.graph
    for value in graph.initializers.values():
        if value.dtype == _HALF and value.const_value is not None:
            array = value.const_value.numpy().astype(np.float32)
            value.const_value = ir.tensor(array, name=value.name)
            value.type = ir.TensorType(_SINGLE)
    for value in graph.inputs:
        if value.dtype == _HALF:
            _redirect(value, cast(graph, value, _SINGLE, "up"))
    for node in list(graph):
        if node.name and node.name.endswith("__up_node"):
            continue
        rounds = node.op_type == "Cast"
        for value in node.outputs:
            if value.dtype != _HALF:
                continue
            if rounds:
                _redirect(value, cast(graph, value, _SINGLE, "up"))
            else:
                _round(graph, value)
        if not rounds:
            _widen_attributes(node)
    graph.sort()


def _round(graph: ir.Graph, value: ir.Value) -> None:
    value.type = ir.TensorType(_SINGLE)
    users = list(value.uses())
    down = cast(graph, value, _HALF, "down")
    up = cast(graph, down, _SINGLE, "up")
    for node, index in users:
        node.replace_input_with(index, up)
    for position, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[position] = down
            value.name, down.name = f"{value.name}__wide", value.name


def _redirect(value: ir.Value, to: ir.Value) -> None:
    for node, index in list(value.uses()):
        if node is not to.producer():
            node.replace_input_with(index, to)


def _widen_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == _HALF:
            array = attribute.as_tensor().numpy().astype(np.float32)
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(array))
        elif name == "dtype" and attribute.as_int() == int(_HALF):
            node.attributes[name] = ir.AttrInt64(name, int(_SINGLE))
