"""Graphs whose accuracy 16 bits ruin although every value fits them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from lower_toys import FLOAT, export_module, node
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

Feeds = list[dict[str, NDArray[np.generic]]]


class Normalisation(nn.Module):
    """A convolution, ``E[x²] - E[x]²`` as hand-written normalisations have it, a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 10, 1)
        nn.init.constant_(self.first.bias, 28.0)  # squares up to 900: float16 has head-room

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        mean = y.mean((2, 3), keepdim=True)
        variance = (y * y).mean((2, 3), keepdim=True) - mean * mean
        return self.second((y - mean) / torch.sqrt(variance + 1e-3))


def normalisation(path: Path, count: int = 24) -> tuple[Path, Feeds]:
    """The exported net and samples for it."""
    torch.manual_seed(0)
    source = export_module(Normalisation().eval(), (torch.zeros(1, 3, 16, 16),), path)
    random = np.random.default_rng(0)
    shape = (count, 1, 3, 16, 16)
    return source, [{"input": x} for x in random.standard_normal(shape, np.float32)]


def rotary(path: Path) -> tuple[Path, Feeds]:
    """The sines of angles up to 2047, which the Relu hides from the search for positions."""
    inverse = (10000.0 ** (-np.arange(0, 32, 2) / 32)).astype(np.float32)
    nodes = [
        node("Cast", "pos", "float", to=FLOAT),
        node("Relu", "float", "counted"),
        node("Mul", "counted inverse", "angle"),
        node("Cos", "angle", "cos"),
        node("Sin", "angle", "sin"),
        node("Mul", "q cos", "a"),
        node("Mul", "q sin", "b"),
        node("Concat", "a b", "out", axis=-1),
    ]
    inputs = [("pos", TensorProto.INT64, [1, 2048, 1]), ("q", FLOAT, [1, 2048, 16])]
    _write(path, nodes, inputs, [1, 2048, 32], {"inverse": inverse})
    q = np.random.default_rng(0).standard_normal((1, 2048, 16), np.float32)
    return path, [{"pos": np.arange(2048).reshape(1, -1, 1), "q": q}]


def bucketised(path: Path) -> tuple[Path, Feeds]:
    """An index computed in floats behind a Relu: up to 4,999, looked up in a table."""
    random = np.random.default_rng(0)
    nodes = [
        node("Relu", "x", "positive"),
        node("Mul", "positive count", "scaled"),
        node("Floor", "scaled", "floor"),
        node("Cast", "floor", "index", to=TensorProto.INT64),
        node("Gather", "table index", "rows"),
        node("Relu", "rows", "out"),
    ]
    weights = {"table": random.standard_normal((5000, 8), np.float32), "count": np.float32(4999)}
    _write(path, nodes, [("x", FLOAT, [1, 256])], [1, 256, 8], weights)
    return path, [{"x": random.uniform(size=(1, 256)).astype(np.float32)}]


def _write(path, nodes, inputs, shape, weights) -> None:
    graph = helper.make_graph(
        nodes,
        "fragile",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info("out", FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def true_sqnr_db(source: Path, lowered: Path, feeds: Feeds) -> float:
    """The SQNR of a file as onnx's reference evaluator runs it, which rounds every 16-bit tensor.

    ONNX Runtime on a CPU does not, and neither emulation nor measurement of ours is in it.
    """
    signal = noise = 0.0
    exact, coarse = ReferenceEvaluator(str(source)), ReferenceEvaluator(str(lowered))
    for feed in feeds:
        for wanted, given in zip(exact.run(None, feed), coarse.run(None, feed), strict=True):
            wanted = np.asarray(wanted, np.float64)
            signal += float(np.square(wanted).sum())
            noise += float(np.square(wanted - np.asarray(given, np.float64)).sum())
    return float(10 * np.log10(signal / noise))
