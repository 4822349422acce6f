"""The networks of the matrix, one for every kind of shape that an engine can meet; small."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lowering_calls import lower_bf16, lower_fp16, lower_qdq
from torch import nn
from torch.nn import functional

from deployfold.compiling.records import OptimizationProfile
from deployfold.config.accuracy import GuardSpec
from deployfold.config.optimization_profiles import InputShapes
from deployfold.config.precision import Precision


class Residual(nn.Module):
    """A stem, a residual block with a strided shortcut, pooling and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.first = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.second = nn.Conv2d(32, 32, 3, padding=1)
        self.shortcut = nn.Conv2d(16, 32, 1, stride=2)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.stem(x))
        y = self.second(functional.relu(self.first(x)))
        return self.head(functional.relu(y + self.shortcut(x)).mean((2, 3)))


class TwoInputs(nn.Module):
    """An image and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.vector = nn.Conv2d(3, 8, 3), nn.Linear(6, 8)
        self.head = nn.Linear(16, 4)

    def forward(self, image: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        pooled = functional.relu(self.image(image)).mean((2, 3))
        return self.head(torch.cat([pooled, functional.relu(self.vector(vector))], dim=1))


class Block(nn.Module):
    """One transformer block, attention written out."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = (
            part.reshape(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for part in self.qkv(self.before(x)).chunk(3, dim=-1)
        )
        scores = (q @ k.transpose(-1, -2)) / (width // self.heads) ** 0.5
        x = x + self.project((scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape))
        return x + self.mlp(self.after(x))


@dataclass(frozen=True)
class Net:
    """A network's fp32 ONNX, samples for it, and its optimization profiles."""

    fp32: Path
    feeds: tuple[dict[str, np.ndarray], ...]
    profiles: tuple[OptimizationProfile, ...]

    def onnx(self, column: str) -> Path:
        """The ONNX in a column of the matrix, made once: a precision, or ``int8+fp16``."""
        path = self.fp32.with_name(f"{self.fp32.stem}.{column}.onnx")
        precision = precision_of(column)
        if precision is Precision.FP32:
            return self.fp32
        if path.exists():
            return path
        if precision is Precision.FP16:
            lower_fp16(self.fp32, path, inputs=self.feeds)
        elif precision is Precision.BF16:
            lower_bf16(self.fp32, path, inputs=self.feeds)
        else:
            lower_qdq(
                self.fp32, path, precision=precision, calibration=self.feeds, held_back=self.feeds,
                fallback=Precision.FP32 if column == "int8" else Precision.FP16,
                guard=GuardSpec(enabled=False),
            )  # fmt: skip
        return path


def precision_of(column: str) -> Precision:
    """The precision of a column's engines."""
    return Precision(column.removesuffix("+fp16"))


NETS = ("residual", "two-inputs", "fully-convolutional", "conv-1d", "conv-3d", "transformer")


def make_net(name: str, directory: Path) -> Net:
    """Export the network called ``name``."""
    torch.manual_seed(0)
    dynamic: dict[str, dict[int, str]] = {}
    ranges: dict[str, tuple[tuple[int, ...], ...]] = {}
    if name == "residual":
        module, inputs = Residual(), {"x": torch.randn(2, 3, 16, 16)}
    elif name == "two-inputs":
        module = TwoInputs()
        inputs = {"image": torch.randn(2, 3, 16, 16), "vector": torch.randn(2, 6)}
    elif name == "fully-convolutional":
        module = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, padding=1), nn.Upsample(scale_factor=2.0), nn.Conv2d(8, 2, 1),
        )  # fmt: skip
        inputs = {"x": torch.randn(1, 3, 32, 32)}
        dynamic = {"x": {0: "n", 2: "h", 3: "w"}}
        ranges = {"x": ((1, 3, 16, 16), (1, 3, 32, 32), (4, 3, 64, 96))}
    elif name == "conv-1d":
        module = nn.Sequential(nn.Conv1d(4, 8, 5), nn.ReLU(), nn.Conv1d(8, 4, 3, groups=4))
        inputs = {"x": torch.randn(2, 4, 40)}
    elif name == "conv-3d":
        module = nn.Sequential(nn.Conv3d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 4, 1))
        inputs = {"x": torch.randn(1, 2, 6, 8, 8)}
    else:
        module, inputs = Block(), {"x": torch.randn(2, 9, 32)}
    path = directory / f"{name}.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            str(path),
            dynamo=False,
            opset_version=20,
            input_names=list(inputs),
            output_names=["y"],
            dynamic_axes=dynamic,
        )
    feeds = tuple(
        {key: torch.randn_like(value).numpy() for key, value in inputs.items()} for _ in range(4)
    )
    profile = tuple(
        InputShapes(key, *ranges.get(key, (tuple(value.shape),) * 3))
        for key, value in inputs.items()
    )
    return Net(path, feeds, (profile,))
