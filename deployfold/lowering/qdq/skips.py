"""Finds the skip connections of residual sums that can be quantised too.

TensorRT computes a convolution and the sum behind it in one kernel. With both operands quantised,
the kernel reads and writes 8 bits only. A skip in fp16 costs twice the memory traffic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from .layers import Layer, Skip


def with_skips(model: ir.Model, layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers, each with its skip if the layer has one.

    1. The layer is a convolution, and only an Add reads its output.
    2. The other operand of the Add is not a constant, and is computed before the layer. So its
       values are known when quantisation reaches the layer. If both operands are such
       convolutions, the earlier one is the skip of the later one.

    The shapes are compared later, with actual values; a skip that needs broadcasting is not
    quantised.
    """
    order = {node: index for index, node in enumerate(model.graph)}
    nodes = {node.name: node for node in order}
    found = []
    for layer in layers:
        node = nodes[layer.name]
        skip = _skip(node, order) if layer.op_type == "Conv" else None
        found.append(dataclasses.replace(layer, skip=skip))
    return found


def _skip(node: ir.Node, order: dict[ir.Node, int]) -> Skip | None:
    output = node.outputs[0]
    uses = output.uses()
    if len(uses) != 1 or output.is_graph_output() or uses[0].node.op_type != "Add":
        return None
    add, index = uses[0]
    skip = add.inputs[1 - index]
    if skip is None or skip.const_value is not None:
        return None
    producer = skip.producer()
    early = producer is None or order[producer] < order[node]
    return Skip(str(skip.name), str(add.outputs[0].name)) if early else None
