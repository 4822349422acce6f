"""Counts the layers that a quantised ONNX computes in int8, whoever wrote it."""

from __future__ import annotations

from pathlib import Path

import onnx

LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
INTEGER = {"ConvInteger", "MatMulInteger"}
MOVES = {"Cast", "Clip", "Concat", "Flatten", "Identity", "MaxPool", "Pad", "Relu", "Reshape",
         "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}  # fmt: skip
"""Operators that may stand between a DequantizeLinear and the layer that reads it."""


def int8_layers(path: Path) -> str:
    """How many convolutions and matrix products of a file have two int8 operands: «5 of 7»."""
    nodes = onnx.load(path).graph.node
    made = {output: node for node in nodes for output in node.output}

    def dequantised(name: str) -> bool:
        node = made.get(name)
        while node is not None and node.op_type in MOVES:
            node = made.get(node.input[0])
        return node is not None and node.op_type == "DequantizeLinear"

    layers = [node for node in nodes if node.op_type in LAYERS]
    integer = sum(node.op_type in INTEGER for node in nodes)
    count = sum(all(map(dequantised, node.input[:2])) for node in layers)
    return f"{integer + count} of {integer + len(layers)}"
