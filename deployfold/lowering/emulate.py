"""Rewrites a 16-bit graph so that a CPU rounds every tensor as 16-bit hardware does.

ONNX Runtime's CPU provider has few float16 kernels, and fewer for bfloat16. Nodes without a kernel
run in float32 without the roundings in between, or do not run. A value of 120,000 then passes
unharmed, and the accuracy looks better than on hardware. ONNX Runtime does round at a Cast in the
graph. Therefore every 16-bit tensor becomes a float32 tensor that is cast down and up again. The
arithmetic is that of a kernel that accumulates in float32 and stores 16 bits, as TensorRT's
kernels do.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch

from deployfold.util.arrays import Array

from .graph import cast, is_tensor, lazy

_SINGLE = ir.DataType.FLOAT


def emulate(model: ir.Model, half: ir.DataType) -> None:
    """Rewrite a lowered model in place; inputs and outputs keep their names and dtypes.

    Args:
        half: the 16-bit type of the model, FLOAT16 or BFLOAT16.
    """
    graph = model.graph
    for value in graph.initializers.values():
        # An initialiser that is a graph output keeps its type.
        if is_tensor(value, half) and value.const_value is not None and not value.is_graph_output():
            weight = value.const_value
            # Computed at each write, to keep memory low.
            value.const_value = lazy(weight, _SINGLE, weight.name, _widened)
            value.type = ir.TensorType(_SINGLE)
        elif is_tensor(value, half) and value.uses():
            _redirect(value, cast(graph, value, _SINGLE, "up"))
    for value in graph.inputs:
        if is_tensor(value, half):
            _redirect(value, cast(graph, value, _SINGLE, "up"))
    for node in list(graph):
        if node.name and node.name.endswith("__up_node"):
            continue
        rounds = node.op_type == "Cast"
        for value in node.outputs:
            if not value.name or not is_tensor(value, half):
                continue
            if rounds:
                _redirect(value, cast(graph, value, _SINGLE, "up"))
            else:
                _round(graph, value, half)
        if not rounds:
            _widen_attributes(node, half)
    graph.sort()


def _widened(array: Array) -> Array:
    if array.dtype == np.float16:  # a quarter of NumPy's time
        return torch.from_numpy(np.array(array)).float().numpy()
    return array.astype(np.float32)


def _round(graph: ir.Graph, value: ir.Value, half: ir.DataType) -> None:
    value.type = ir.TensorType(_SINGLE)
    users = list(value.uses())
    down = cast(graph, value, half, "down")
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


def _widen_attributes(node: ir.Node, half: ir.DataType) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == half:
            array = _widened(attribute.as_tensor().numpy())
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(array))
        elif name == "dtype" and attribute.as_int() == int(half):
            node.attributes[name] = ir.AttrInt64(name, int(_SINGLE))
