"""Finds the nodes that compute with positions and other integers, which 16 bits do not hold.

float16 holds every integer up to 2,048 only, and bfloat16 up to 256. No measurement shows the loss,
because random integer inputs are 0 and 1, and because a longer sequence has higher positions than
the given one. These nodes of the main graph therefore stay in fp32, whatever the values:

1. A Cast of integers wider than 8 bits to float32, and a Range in float32.
2. A node of :data:`_ELEMENTWISE` whose float32 inputs all come from such nodes, or from constants
   and at least one such node. A MatMul counts if it is an outer product.
3. A node of :data:`_SHARP` with such an input. If its input comes from float32 graph inputs by
   nodes of :data:`_ELEMENTWISE`, the node stays as well, with these nodes: the inputs may be time
   steps, or coordinates from which the model computes indices.

The nodes that read the result elsewhere, such as a layer, are converted as usual.
"""

from __future__ import annotations

from enum import IntEnum

import onnx_ir as ir

from deployfold.lowering.graph import is_tensor
from deployfold.util.onnx_values import inner_graphs

_ELEMENTWISE = frozenset(
    "Abs Add Ceil Clip Concat CumSum Div Expand Flatten Floor Gather Identity Log Max Min Mod Mul "
    "Neg Pow Reciprocal ReduceMax ReduceMin ReduceSum Reshape Round Slice Sqrt Squeeze Sub Tile "
    "Transpose Unsqueeze Where".split()
)
_PERIODIC = frozenset({"Sin", "Cos"})
_SHARP = _PERIODIC | {"Cast", "Ceil", "Floor", "Round"}
"""Nodes whose result a small error of a large input changes; a Cast if to integers."""

_SMALL = frozenset({ir.DataType.BOOL, ir.DataType.INT8, ir.DataType.UINT8})
"""Types whose values both 16-bit types hold exactly."""

_FP32 = ir.DataType.FLOAT


class _Origin(IntEnum):
    """Where the values of a tensor come from; a node's result has the highest of its inputs."""

    CONSTANT = 0
    INPUT = 1
    INTEGER = 2
    OTHER = 3


def counting_nodes(model: ir.Model, title: str) -> dict[str, str]:
    """The nodes that stay in fp32, as reasons by node name; see the module.

    Args:
        model: a model after :func:`~deployfold.lowering.graph.prepare`.
        title: the name of the 16-bit type, for the reason.
    """
    origins = dict.fromkeys(model.graph.inputs, _Origin.INPUT)
    found: set[ir.Node] = set()
    for node in model.graph:
        origin = _origin(node, origins)
        if origin is _Origin.INTEGER or (origin is _Origin.INPUT and _is_sharp(node)):
            found.add(node)
        if node.op_type in _PERIODIC:
            origin = _Origin.OTHER  # between -1 and 1
        origins |= dict.fromkeys(node.outputs, origin)
    found |= _makers(found, origins)
    reason = f"it computes with positions or other integers, which {title} rounds"
    return {str(node.name): reason for node in model.graph if node in found}


def _origin(node: ir.Node, origins: dict[ir.Value, _Origin]) -> _Origin:
    if inner_graphs(node) or node.domain not in ("", "ai.onnx"):
        return _Origin.OTHER
    if node.op_type == "Range":
        return _Origin.INTEGER if is_tensor(node.outputs[0], _FP32) else _Origin.OTHER
    if node.op_type == "ConstantOfShape":
        return _Origin.CONSTANT
    source = node.inputs[0] if node.inputs else None
    if node.op_type == "Cast" and source is not None and source.dtype is not None:
        if not source.dtype.is_floating_point():
            constant = source.dtype in _SMALL or source.const_value is not None
            return _Origin.CONSTANT if constant else _Origin.INTEGER
    elif node.op_type not in _ELEMENTWISE | _PERIODIC and not _is_outer_product(node):
        return _Origin.OTHER
    floats = [value for value in node.inputs if value is not None and is_tensor(value, _FP32)]
    return max((_of(value, origins) for value in floats), default=_Origin.OTHER)


def _of(value: ir.Value, origins: dict[ir.Value, _Origin]) -> _Origin:
    if value.const_value is not None:
        return _Origin.CONSTANT
    return origins.get(value, _Origin.OTHER)


def _is_outer_product(node: ir.Node) -> bool:
    if node.op_type != "MatMul":
        return False
    # One of the two shapes is often unknown, such as that of an Expand.
    return any(
        value is not None and value.shape is not None and value.shape[-axis:][:1] == (1,)
        for value, axis in zip(node.inputs, (1, 2), strict=True)
    )


def _is_sharp(node: ir.Node) -> bool:
    made = node.outputs[0].dtype
    if node.op_type == "Cast" and (made is None or made.is_floating_point()):
        return False
    return node.op_type in _SHARP


def _makers(nodes: set[ir.Node], origins: dict[ir.Value, _Origin]) -> set[ir.Node]:
    """All nodes before ``nodes`` as far as the values come from constants, inputs and integers."""
    found: set[ir.Node] = set()
    waiting = list(nodes)
    while waiting:
        for value in waiting.pop().inputs:
            maker = value.producer() if value is not None else None
            if maker is not None and maker not in found and _of(value, origins) < _Origin.OTHER:
                found.add(maker)
                waiting.append(maker)
    return found
