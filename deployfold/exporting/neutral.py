"""Removes additions of a scalar zero from an exported graph.

A branch that folding merged into a parallel branch returns a scalar zero
(:class:`~deployfold.folding.rewrite.rewrite.Zero`), which the eager forward still adds.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass


def drop_zero_additions(model: ir.Model) -> int:
    """Remove ``x + 0`` and ``x - 0`` where the zero is a constant of rank 0; returns how many."""
    dropped = 0
    for node in list(model.graph):
        if node.op_type not in {"Add", "Sub"} or node.domain:
            continue
        first, second = node.inputs
        kept = first if _is_zero(second) else second
        if kept is None or not (_is_zero(second) or (node.op_type == "Add" and _is_zero(first))):
            continue
        (result,) = node.outputs
        if result.is_graph_output() and (kept.is_graph_input() or kept.is_graph_output()):
            continue  # graph outputs must stay distinct values
        if result.is_graph_output():
            kept.name, result.name = result.name, None
            kept.type, kept.shape = result.type, result.shape
        ir.convenience.replace_all_uses_with(result, kept, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
        dropped += 1
    if dropped:
        RemoveUnusedNodesPass()(model)
    return dropped


def _is_zero(value: ir.Value | None) -> bool:
    """Whether a value is a constant zero of rank 0, so that adding it changes no shape."""
    if value is None:
        return False
    constant = ir.convenience.get_const_tensor(value)
    if constant is not None:
        return len(constant.shape) == 0 and constant.numpy().item() == 0
    node = value.producer()
    if node is None or node.op_type != "ConstantOfShape" or node.inputs[0] is None:
        return False
    shape = ir.convenience.get_const_tensor(node.inputs[0])
    fill = node.attributes.get("value")
    zero = fill is None or not fill.as_tensor().numpy().any()
    return shape is not None and shape.size == 0 and zero
