"""ONNX files as other exporters write them, made node by node with seeded weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deployfold.util.arrays import Array


class GraphWriter:
    """Collects the nodes and weights of one graph; every method returns the name of its result."""

    def __init__(self, opset: int = 13, dtype: Any = np.float32, prefix: str = "") -> None:
        self.opset, self.dtype, self.prefix = opset, np.dtype(dtype), prefix
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)

    def weight(self, array: Array) -> str:
        """An initialiser."""
        name = f"{self.prefix}w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def node(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """A node; the name of its output, or a list of several."""
        number = len(self.nodes)
        names = [f"{self.prefix}{op_type.lower()}{number}_{one}" for one in range(outputs)]
        name = f"/{self.prefix}{op_type}_{number}"
        self.nodes.append(helper.make_node(op_type, inputs, names, name=name, **attributes))
        return names[0] if outputs == 1 else names

    def conv(self, x: str, into: int, out: int, kernel: int = 3, **attributes: Any) -> str:
        """A convolution without a bias, padded to keep the size."""
        scale = 1.4 / np.sqrt(into * kernel * kernel)
        array = self.random.standard_normal((out, into, kernel, kernel)) * scale
        attributes.setdefault("pads", [kernel // 2] * 4)
        return str(self.node("Conv", x, self.weight(array.astype(self.dtype)), **attributes))

    def norm(self, x: str, channels: int, **attributes: Any) -> str:
        """A BatchNormalization with statistics as training leaves them."""
        arrays = (
            self.random.uniform(0.5, 1.5, channels),
            self.random.standard_normal(channels) * 0.2,
            self.random.standard_normal(channels) * 0.2,
            self.random.uniform(0.5, 1.5, channels),
        )
        names = [self.weight(one.astype(self.dtype)) for one in arrays]
        return str(self.node("BatchNormalization", x, *names, **attributes))

    def block(self, x: str, into: int, out: int, kernel: int = 3, **attributes: Any) -> str:
        """Convolution, BatchNormalization, ReLU."""
        return str(self.node("Relu", self.norm(self.conv(x, into, out, kernel, **attributes), out)))

    def constant(self, values: Sequence[int] | Array, dtype: Any = np.int64) -> str:
        """An array as an initialiser."""
        return self.weight(np.asarray(values, dtype))

    def model(
        self,
        inputs: dict[str, tuple[int, Sequence[int | str]]],
        outputs: dict[str, tuple[int, Sequence[int | str] | None]],
        *,
        domains: Sequence[str] = (),
        metadata: dict[str, str] | None = None,
    ) -> onnx.ModelProto:
        """The model, with types and shapes of its inputs and outputs by name."""
        graph = helper.make_graph(
            self.nodes,
            "main",
            [helper.make_tensor_value_info(name, *one) for name, one in inputs.items()],
            [helper.make_tensor_value_info(name, *one) for name, one in outputs.items()],
            self.weights,
        )
        opsets = [helper.make_opsetid("", self.opset)]
        opsets += [helper.make_opsetid(domain, 1) for domain in domains]
        model = helper.make_model(
            graph, opset_imports=opsets, producer_name="another", producer_version="1.2"
        )
        model.ir_version = 4 if self.opset < 12 else 8
        helper.set_model_props(model, metadata or {})
        return model

    def rename(self, name: str, wanted: str) -> str:
        """Give a value the name of an output."""
        for node in self.nodes:
            node.output[:] = [wanted if one == name else one for one in node.output]
            node.input[:] = [wanted if one == name else one for one in node.input]
        return wanted


FLOAT, HALF, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64


def resnet(opset: int = 13, dtype: Any = np.float32, batch: int | str = 1) -> onnx.ModelProto:
    """Residual blocks with their BatchNormalization nodes left, as the ONNX model zoo has them."""
    g = GraphWriter(opset, dtype)
    x = g.block("data", 3, 16, 3, strides=[2, 2])
    for _ in range(2):
        inner = g.norm(g.conv(g.block(x, 16, 16), 16, 16), 16)
        x = g.node("Relu", g.node("Add", inner, x))
    before = g.node("Relu", g.norm(x, 16))  # reads a sum, and ReLU reads it: it has to stay
    x = g.node("Flatten", g.node("GlobalAveragePool", before))
    head = g.weight((g.random.standard_normal((10, 16)) * 0.3).astype(dtype))
    bias = g.weight(np.zeros(10, dtype))
    g.rename(g.node("Gemm", x, head, bias, transB=1), "scores")
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return g.model({"data": (kind, [batch, 3, 32, 32])}, {"scores": (kind, [batch, 10])})


def detector(opset: int = 13, size: int = 32) -> onnx.ModelProto:
    """A detector in the form of YOLO's exporter: Split, Concat, Resize, boxes and scores."""
    g = GraphWriter(opset)
    small = g.block("images", 3, 16, 3, strides=[2, 2])
    sizes = {"outputs": 2, "axis": 1}
    halves = (
        g.node("Split", small, g.constant([8, 8]), **sizes)
        if opset >= 13
        else g.node("Split", small, split=[8, 8], **sizes)
    )
    deep = g.block(g.node("Concat", halves[0], g.block(halves[1], 8, 8), axis=1), 16, 32)
    low = g.block(deep, 32, 32, 3, strides=[2, 2])
    scales = g.weight(np.asarray([1, 1, 2, 2], np.float32))
    if opset >= 11:
        region = g.weight(np.zeros(0, np.float32)) if opset < 13 else ""
        attributes: dict[str, Any] = {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        }
        up = g.node("Resize", low, region, scales, **attributes)
    else:
        up = g.node("Resize" if opset == 10 else "Upsample", low, scales, mode="nearest")
    merged = g.block(g.node("Concat", up, deep, axis=1), 64, 16)
    head = g.conv(merged, 16, 9, 1)
    flat = g.node("Reshape", head, g.constant([1, 9, -1]))
    parts = {"outputs": 2, "axis": 1}
    boxes, scores = (
        g.node("Split", flat, g.constant([4, 5]), **parts)
        if opset >= 13
        else g.node("Split", flat, split=[4, 5], **parts)
    )
    boxes = g.node("Mul", g.node("Sigmoid", boxes), g.weight(np.float32([32.0])))
    g.rename(g.node("Concat", boxes, g.node("Sigmoid", scores), axis=1), "output0")
    return g.model(
        {"images": (FLOAT, [1, 3, size, size])},
        {"output0": (FLOAT, [1, 9, size * size // 4])},
        metadata={"names": "{0: 'square', 1: 'disc'}", "stride": "4"},
    )


def embedding(sequence: int | str = 6) -> onnx.ModelProto:
    """Token numbers to scores: int64 inputs, Gather, MatMul, and a BatchNormalization behind."""
    g = GraphWriter(13)
    table = g.weight(g.random.standard_normal((4, 16)).astype(np.float32))
    mask = g.node("Unsqueeze", g.node("Cast", "mask", to=FLOAT), g.constant([2]))
    x = g.node("Mul", g.node("Gather", table, "ids"), mask)
    x = g.node("ReduceMean", x, axes=[1], keepdims=0)
    matrix = g.weight((g.random.standard_normal((16, 8)) * 0.3).astype(np.float32))
    x = g.norm(g.node("MatMul", x, matrix), 8)
    g.rename(g.node("Tanh", x), "scores")
    shape = ["batch", sequence]
    return g.model(
        {"ids": (INT64, shape), "mask": (INT64, shape)}, {"scores": (FLOAT, ["batch", 8])}
    )


def branching() -> onnx.ModelProto:
    """An If whose branches read a value and a weight from outside, and have one BatchNorm."""
    g = GraphWriter(13)
    x = g.block("x", 3, 8)
    total = g.node("Greater", g.node("ReduceSum", x, keepdims=0), g.weight(np.float32(0.0)))
    branches = {}
    for key in ("then", "else"):
        arm = GraphWriter(13, prefix=key)
        out = arm.norm(arm.conv(x, 8, 8), 8) if key == "then" else arm.node("Neg", x)
        result = helper.make_tensor_value_info(out, FLOAT, None)
        branches[f"{key}_branch"] = helper.make_graph(arm.nodes, key, [], [result])
        g.weights += arm.weights
    chosen = g.node("If", total, **branches)
    g.rename(g.conv(g.node("Relu", chosen), 8, 4), "y")
    return g.model({"x": (FLOAT, [1, 3, 12, 12])}, {"y": (FLOAT, [1, 4, 12, 12])})


def save(model: onnx.ModelProto, path: Path, *, external: bool = False) -> Path:
    """Write a model, with its weights in a file of another name if ``external``."""
    if external:
        onnx.save(
            model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0
        )
    else:
        onnx.save(model, str(path))
    return path
