"""Small networks to quantise, and checks of the quantised graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from lower_toys import export_module
from onnx import TensorProto, numpy_helper
from torch import nn

from deployfold.config.accuracy import GuardSpec
from deployfold.config.precision import Precision

LOOSE = GuardSpec(enabled=False)

STORED = {
    Precision.INT8: (TensorProto.INT8, 127),
    Precision.FP8: (TensorProto.FLOAT8E4M3FN, 448),
    Precision.INT4: (TensorProto.INT4, 7),
}
"""The type of a zero point and a weight, and the largest magnitude of a weight in it."""


class Residual(nn.Module):
    """A convolution, a depthwise one, a skip, a pool and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.depthwise = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
        )
        self.project, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, x):
        y = torch.relu(self.first(x))
        z = torch.nn.functional.relu6(self.depthwise(y))
        return self.head(torch.relu(self.project(z) + y).amax((2, 3)))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 16), nn.Linear(4, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, a, b):
        return self.head(torch.tanh(self.left(a) * self.right(b)))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.out(torch.softmax(q @ k.transpose(1, 2) / 4, -1) @ v) + x


def one_dimensional() -> nn.Module:
    return nn.Sequential(nn.Conv1d(4, 8, 3), nn.ReLU(), nn.Conv1d(8, 4, 3, stride=2))


def three_dimensional() -> nn.Module:
    return nn.Sequential(nn.Conv3d(2, 4, 3), nn.ReLU(), nn.Conv3d(4, 4, 1))


def transposed() -> nn.Module:
    return nn.Sequential(nn.ConvTranspose2d(4, 6, 2, stride=2), nn.ReLU(), nn.Conv2d(6, 4, 1))


def grouped() -> nn.Module:
    return nn.Sequential(nn.Conv2d(8, 16, 3, groups=4, dilation=2), nn.ReLU(), nn.Conv2d(16, 8, 1))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 32), nn.GELU(), nn.Linear(32, 4))


NETS = {
    "residual": (Residual, [(1, 3, 16, 16)]),
    "two inputs": (TwoInputs, [(1, 6), (1, 4)]),
    "1-D": (one_dimensional, [(1, 4, 32)]),
    "3-D": (three_dimensional, [(1, 2, 6, 6, 6)]),
    "transposed": (transposed, [(1, 4, 8, 8)]),
    "grouped": (grouped, [(1, 8, 12, 12)]),
    "MLP": (mlp, [(1, 12)]),
    "attention": (Attention, [(1, 6, 16)]),
}


class Products(nn.Module):
    """Products of three axes and of two, a convolution, and one with a width for none."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv1d(64, 64, 1), nn.Linear(64, 256, bias=False)
        self.second, self.odd = nn.Linear(256, 36), nn.Linear(36, 8)

    def forward(self, x):
        y = torch.nn.functional.gelu(self.first(self.stem(x).transpose(1, 2)))
        return self.odd(torch.relu(self.second(y.amax(1))))


INT4_NETS = {
    "products": (Products, [(1, 64, 6)]),
    "wide": (lambda: nn.Sequential(nn.Linear(96, 64), nn.GELU(), nn.Linear(64, 8)), [(1, 96)]),
}
"""Networks with matrix products of enough inputs for int4."""


def made(name: str, path: Path) -> tuple[Path, list[dict[str, np.ndarray]], nn.Module]:
    """The exported net, 24 samples for it, and the net."""
    make, shapes = (NETS | INT4_NETS)[name]
    torch.manual_seed(0)
    net = make().eval()
    source = export_module(net, tuple(torch.randn(shape) for shape in shapes), path)
    names = [value.name for value in onnx.load(source).graph.input]
    random = np.random.default_rng(1)
    feeds = [
        {
            key: random.standard_normal(shape).astype("float32")
            for key, shape in zip(names, shapes, strict=True)
        }
        for _ in range(24)
    ]
    return source, feeds, net


def audit(path: Path, precision: Precision = Precision.INT8, *, sums: int = 0) -> int:
    """Check every Q/DQ of the file; returns how many weights are quantised.

    All of one type, symmetric, with finite positive scales: one for an activation, one for each
    output channel of a weight, or in int4 for each block of its inputs; never on a bias, nor
    between a layer and its activation, and on one operand of so many ``sums``.
    """
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    dtype, largest = STORED[precision]
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    values = {name: numpy_helper.to_array(tensor) for name, tensor in weights.items()}
    producer = {name: node for node in model.graph.node for name in node.output}
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    count = added = 0
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale = values[node.input[1]]
        assert np.isfinite(scale).all()
        assert (scale > 0).all()
        if len(node.input) > 2:
            assert weights[node.input[2]].data_type == dtype
            assert not values[node.input[2]].astype(np.float32).any()
        else:
            assert precision is Precision.INT4
        if node.input[0] in weights:
            count += 1
            stored = values[node.input[0]].astype(np.float32)
            assert weights[node.input[0]].data_type == dtype
            assert np.isfinite(stored).all()
            assert np.abs(stored).max() <= largest
            (layer,) = consumers[node.output[0]]
            check_scale(node, layer, stored.shape, scale.shape, precision)
            behind = consumers.get(layer.output[0], [])
            if any(item.op_type in ("Relu", "Clip") for item in behind):
                assert not any(item.op_type == "QuantizeLinear" for item in behind)
        else:
            assert precision is not Precision.INT4, "int4 is for weights"
            assert scale.ndim == 0, "activations have one scale"
        if node.op_type == "DequantizeLinear" and node.input[0] not in weights:
            assert producer[node.input[0]].op_type == "QuantizeLinear"
            added += sum(item.op_type == "Add" for item in consumers[node.output[0]])
    assert added == sums
    return count


def check_scale(
    node: onnx.NodeProto,
    layer: onnx.NodeProto,
    stored: tuple[int, ...],
    scale: tuple[int, ...],
    precision: Precision,
) -> None:
    """A weight has scales for its output channels, and in int4 for blocks of its inputs."""
    assert layer.input[1] == node.output[0], "only the weight, never the bias"
    options = {item.name: item.i for item in node.attribute}
    by_row = layer.op_type == "Conv" or any(a.name == "transB" and a.i for a in layer.attribute)
    channels = 0 if by_row else 1
    if precision is not Precision.INT4:
        assert layer.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")
        assert options["axis"] == channels
        assert scale == (stored[channels],), "one scale an output channel"
        return
    assert layer.op_type in ("Gemm", "MatMul")
    assert options["axis"] == 1 - channels
    assert options["block_size"] in (128, 64, 32)
    blocks, rest = divmod(stored[1 - channels], options["block_size"])
    assert rest == 0
    assert scale[channels] == stored[channels]
    assert scale[1 - channels] == blocks
