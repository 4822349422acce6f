"""Restores the types of values that are sequences or optionals of tensors.

onnx-ir's shape inference gives such a value the type of its elements (seen in onnx-ir 1.1.0), and
ONNX Runtime refuses the file. The functions here take the right type from the operator's schema.
"""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir

from deployfold.util.onnx_values import inner_graphs

_CONTAINERS = (ir.SequenceType, ir.OptionalType)


def is_container(value: ir.Value | None) -> bool:
    """Whether a value is a sequence or an optional."""
    return value is not None and isinstance(value.type, _CONTAINERS)


def restore_containers(model: ir.Model) -> None:
    """Give every sequence and optional of a model its container type again, in place."""
    _restore(model.graph, model.opset_imports.get("", onnx.defs.onnx_opset_version()))


def _restore(graph: ir.Graph, opset: int) -> None:
    for node in graph:
        bodies = inner_graphs(node)
        for body in bodies:
            _restore(body, opset)
        for index, value in enumerate(node.outputs):
            kind = _kind(node, index, bodies, opset)
            if kind is not None and isinstance(value.type, ir.TensorType):
                value.type = kind(value.type)
                value.shape = None


def _kind(node: ir.Node, index: int, bodies: list[ir.Graph], opset: int) -> Any:
    """The container class of one output of a node; ``None`` for a tensor."""
    if bodies:
        # The first output of a Loop's body is its condition.
        at = index + 1 if node.op_type == "Loop" else index
        found = [body.outputs[at] for body in bodies if at < len(body.outputs)]
        return next((type(value.type) for value in found if is_container(value)), None)
    if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type, opset, ""):
        return None
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    types = schema.outputs[min(index, len(schema.outputs) - 1)].types
    for prefix, kind in (("seq(", ir.SequenceType), ("optional(", ir.OptionalType)):
        if types and all(one.startswith(prefix) for one in types):
            return kind
    source = node.inputs[0] if node.inputs else None
    if node.op_type != "Identity" or source is None or not is_container(source):
        return None
    return type(source.type)
