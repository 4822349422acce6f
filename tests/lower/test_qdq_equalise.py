"""Channels that a depthwise convolution reads get equal ranges, and the function stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from lower_toys import export_module
from torch import nn

from deployfold.export.session import open_session, run_session
from deployfold.lower.fp16_convert import prepare
from deployfold.lower.qdq.equalise import HEADROOM, LARGEST, equalise
from deployfold.lower.qdq.graph import find_layers


class Separable(nn.Module):
    """An expansion, an activation, a depthwise convolution of two filters a channel, a projection.

    The channels of the expansion differ by a factor of 100; the last one is always 0.
    """

    def __init__(self, activation: nn.Module, *, skip: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.expand, self.activation = nn.Conv2d(3, 8, 1), activation
        self.depthwise, self.project = nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(16, 4, 1)
        self.skip = skip
        with torch.no_grad():
            factors = torch.logspace(-2, 0, 8)
            factors[-1] = 0
            self.expand.weight *= factors[:, None, None, None]
            self.expand.bias *= factors

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = self.expand(x)
        wide = self.activation(before)
        out = self.project(self.depthwise(wide))
        return out + {"": x, "before": before, "after": wide}[self.skip].mean()


def loaded(module: nn.Module, directory: Path) -> tuple[ir.Model, list[dict[str, np.ndarray]]]:
    inputs = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    source = directory / "net.onnx"
    export_module(module.eval(), (inputs[:1],), source)
    model = ir.load(source)
    prepare(model)
    (name,) = (value.name for value in model.graph.inputs)
    return model, [{str(name): sample[None].numpy()} for sample in inputs]


def outputs(model: ir.Model, feeds: list[dict[str, np.ndarray]]) -> list[np.ndarray]:
    session = open_session(ir.to_proto(model).SerializeToString(), optimize=False)
    return [run_session(session, feed)[0] for feed in feeds]


def weights(model: ir.Model, op_index: int) -> np.ndarray:
    node = [node for node in model.graph if node.op_type == "Conv"][op_index]
    return node.inputs[1].const_value.numpy()


@pytest.mark.parametrize(
    "activation", [nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.1), nn.Identity(), nn.MaxPool2d(2, 1)]
)
def test_the_function_stays(activation: nn.Module, tmp_path: Path) -> None:
    model, feeds = loaded(Separable(activation), tmp_path)
    before, first, second = (
        outputs(model, feeds),
        weights(model, 0).copy(),
        weights(model, 1).copy(),
    )
    assert equalise(model, find_layers(model), feeds) == 1
    for old, new in zip(before, outputs(model, feeds), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-5)
    live = slice(0, 7)
    factors = (weights(model, 0) / np.where(first == 0, 1, first))[live, 0, 0, 0]
    assert factors.max() > 10
    assert factors.min() >= 0.999
    assert factors.max() <= LARGEST
    np.testing.assert_array_equal(weights(model, 0)[7], first[7])
    ratio = second[:14, 0, 0, 0] / weights(model, 1)[:14, 0, 0, 0]
    np.testing.assert_allclose(ratio, np.repeat(factors, 2), rtol=1e-4)


def test_a_channel_keeps_its_room_below_a_clip(tmp_path: Path) -> None:
    module = Separable(nn.ReLU6())
    with torch.no_grad():
        module.expand.weight *= 12  # the largest channels reach the bound, or nearly
    model, feeds = loaded(module, tmp_path)
    before = channel_tops(model, feeds)
    assert before.max() > 6
    equalise(model, find_layers(model), feeds)
    after = channel_tops(model, feeds)
    raised = after > before * 1.001
    assert raised.sum() >= 4
    np.testing.assert_array_less(after[raised], 6 / HEADROOM * 1.001)
    np.testing.assert_allclose(after[~raised], before[~raised], rtol=1e-3)


def channel_tops(model: ir.Model, feeds: list[dict[str, np.ndarray]]) -> np.ndarray:
    """The largest value of every channel before the clip."""
    clip = next(node for node in model.graph if node.op_type == "Clip")
    proto = ir.to_proto(model)
    del proto.graph.output[:]
    proto.graph.output.add().name = clip.inputs[0].name
    session = open_session(proto.SerializeToString(), optimize=False)
    return np.max([run_session(session, feed)[0].max((0, 2, 3)) for feed in feeds], 0)


@pytest.mark.parametrize(
    "module",
    [
        Separable(nn.ReLU(), skip="after"),
        Separable(nn.ReLU(), skip="before"),
        Separable(nn.SiLU()),
        Separable(nn.Hardtanh(-1.0, 1.0)),
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3)),
    ],
    ids=[
        "another reader",
        "another reader before the activation",
        "not homogeneous",
        "a clip from below 0",
        "not depthwise",
    ],
)
def test_others_are_left_alone(module: nn.Module, tmp_path: Path) -> None:
    model, feeds = loaded(module, tmp_path)
    before = [weights(model, 0).copy(), weights(model, 1).copy()]
    assert equalise(model, find_layers(model), feeds) == 0
    for index, old in enumerate(before):
        np.testing.assert_array_equal(weights(model, index), old)
