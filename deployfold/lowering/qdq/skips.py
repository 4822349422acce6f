"""Residual sums: finds the skip connections that can be quantised too.

TensorRT computes a convolution and the sum behind it in one kernel. With both operands quantised,
that kernel reads and writes 8 bits only. A skip in fp16 costs twice the memory traffic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from .layers import Layer, Skip


def with_skips(model: ir.Model, layers: Sequence[Layer]) -> list[Layer]:
    """The layers, each with its skip where it has one:

    1. it is a convolution whose output goes into an Add and nowhere else;
    2. what is added to it is computed too, and before it, so that its values are known once the
       layer is reached. Where both operands are such convolutions, the earlier one is the skip of
       the later.

    Whether they have one shape, so that nothing is broadcast, is seen once there are values.
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
