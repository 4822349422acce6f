"""Removes additions of a scalar zero from an exported graph.

A branch that folding merged into a parallel branch returns a scalar zero
(:class:`~deployfold.folding.rewrite.rewrite.Zero`), which the eager forward still adds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
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
    constant = _constant(value)
    if constant is not None:
        return constant.ndim == 0 and constant.item() == 0
    node = None if value is None else value.producer()
    if node is None or node.op_type != "ConstantOfShape":
        return False
    shape = _constant(node.inputs[0])
    fill = node.attributes.get("value")
    zero = fill is None or not fill.as_tensor().numpy().any()
    return shape is not None and shape.size == 0 and zero


def _constant(value: ir.Value | None) -> np.ndarray[Any, Any] | None:
    if value is None:
        return None
    if value.const_value is not None:
        return np.asarray(value.const_value.numpy())
    node = value.producer()
    attribute = None if node is None else node.attributes.get("value")
    if node is None or node.op_type != "Constant" or attribute is None:
        return None
    return np.asarray(attribute.as_tensor().numpy())
