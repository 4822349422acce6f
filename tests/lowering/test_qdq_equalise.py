"""Channels get ranges that int8 serves better, and the function stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from lower_toys import outputs, prepared
from torch import nn

from deployfold.exporting.session import open_session, run_session
from deployfold.lowering.qdq.coupled import find_coupled
from deployfold.lowering.qdq.equalise import HEADROOM, LARGEST, equalise
from deployfold.lowering.qdq.layers import find_layers


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
    return prepared(module, inputs, directory)


def weights(model: ir.Model, op_index: int) -> np.ndarray:
    node = [node for node in model.graph if node.op_type == "Conv"][op_index]
    return node.inputs[1].const_value.numpy()


@pytest.mark.parametrize(
    "activation", [nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.1), nn.Identity(), nn.MaxPool2d(2, 1)]
)
def test_the_function_stays(activation: nn.Module, tmp_path: Path) -> None:
    model, feeds = loaded(Separable(activation), tmp_path)
    before = outputs(model, feeds)
    first, second = weights(model, 0).copy(), weights(model, 1).copy()
    assert equalise(model, find_layers(model), feeds) >= 1
    for old, new in zip(before, outputs(model, feeds), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-5)
    live = slice(0, 7)
    factors = (weights(model, 0) / np.where(first == 0, 1, first))[live, 0, 0, 0]
    assert factors.max() > 10
    assert factors.min() >= 0.999
    assert factors.max() <= LARGEST
    np.testing.assert_array_equal(weights(model, 0)[7], first[7])
    # The projection scales the rows of the second layer as well, all taps of one alike.
    ratio = second[:14, 0] / weights(model, 1)[:14, 0]
    np.testing.assert_allclose(ratio, ratio[:, :1, :1].repeat(3, 1).repeat(3, 2), rtol=1e-4)


class Residual(nn.Module):
    """Two residual blocks on a linear stream whose channels differ by a factor of 100."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 1)
        self.wide = nn.ModuleList(nn.Conv2d(8, 16, 3, padding=1) for _ in range(2))
        self.narrow = nn.ModuleList(nn.Conv2d(16, 8, 1) for _ in range(2))
        self.head = nn.Conv2d(8, 4, 1, groups=4)
        with torch.no_grad():
            for layer in (self.stem, *self.narrow):
                layer.weight *= torch.logspace(-2, 0, 8)[:, None, None, None]
                layer.bias *= torch.logspace(-2, 0, 8)
            for layer in self.wide:
                layer.weight /= torch.logspace(-2, 0, 8)[:, None, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for wide, narrow in zip(self.wide, self.narrow, strict=True):
            x = x + narrow(torch.nn.functional.silu(wide(x)))
        return self.head(torch.relu(x))


def test_a_residual_stream_is_one_region(tmp_path: Path) -> None:
    """SiLU ends a group, and sums and ReLU do not: the stream is the only one."""
    model, feeds = loaded(Residual(), tmp_path)
    (group,) = find_coupled(model, {layer.name for layer in find_layers(model)})
    assert [node.inputs[1].name for node in group.readers] == [
        "wide.0.weight", "wide.1.weight", "head.weight",
    ]  # fmt: skip
    assert {node.inputs[1].name for node in group.writers} == {
        "stem.weight", "narrow.0.weight", "narrow.1.weight",
    }  # fmt: skip
    before, tops = outputs(model, feeds), source_tops(model, feeds)
    assert equalise(model, find_layers(model), feeds) == 1
    for old, new in zip(before, outputs(model, feeds), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-5)
    after = source_tops(model, feeds)
    assert tops.max() / tops.min() > 30
    assert after.max() / after.min() < 10


def rounding_noise(model: ir.Model, index: int, feeds: list[dict[str, np.ndarray]]) -> float:
    """Noise over signal of one convolution's output in int8, as TensorRT rounds."""
    node = [node for node in model.graph if node.op_type == "Conv"][index]
    source = torch.from_numpy(np.concatenate(tensors(model, node, feeds)))
    weight = torch.tensor(node.inputs[1].const_value.numpy())
    pads = node.attributes.get_ints("pads", [0, 0, 0, 0])[0]

    def rounded(value: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
        step = top / 127
        return (value / step).round() * step

    groups = node.attributes.get_int("group", 1)
    exact = torch.conv2d(source, weight, padding=pads, groups=groups)
    found = torch.conv2d(
        rounded(source, source.abs().max()),
        rounded(weight, weight.abs().amax((1, 2, 3), keepdim=True)),
        padding=pads,
        groups=groups,
    )
    return float((found - exact).square().sum() / exact.square().sum())


@pytest.mark.parametrize("small", [1, 3, 30, 300])
def test_no_reader_loses(small: float, tmp_path: Path) -> None:
    """Small channels with large weights in their readers improve; all others stay unchanged."""
    torch.manual_seed(small)
    net = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 8, 3))
    with torch.no_grad():
        factors = torch.logspace(0, -float(np.log10(small)), 16)
        net[0].weight *= factors[:, None, None, None]
        net[0].bias *= factors
        net[2].weight /= factors[:, None, None]
    model, feeds = loaded(net, tmp_path)
    before = rounding_noise(model, 1, feeds)
    equalise(model, find_layers(model), feeds)
    after = rounding_noise(model, 1, feeds)
    assert after < before * (1.1 if small < 30 else 0.2), (before, after)


def source_tops(model: ir.Model, feeds: list[dict[str, np.ndarray]]) -> np.ndarray:
    """The largest magnitude of every channel that the second convolution reads."""
    second = [node for node in model.graph if node.op_type == "Conv"][1]
    return np.max([np.abs(value).max((0, 2, 3)) for value in tensors(model, second, feeds)], 0)


def tensors(
    model: ir.Model, reader: ir.Node, feeds: list[dict[str, np.ndarray]]
) -> list[np.ndarray]:
    """The inputs of ``reader``, for every sample."""
    proto = ir.to_proto(model)
    del proto.graph.output[:]
    proto.graph.output.add().name = reader.inputs[0].name
    session = open_session(proto.SerializeToString(), optimize=False)
    return [run_session(session, feed)[0] for feed in feeds]


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
    return np.max([value.max((0, 2, 3)) for value in tensors(model, clip, feeds)], 0)


@pytest.mark.parametrize(
    "module",
    [
        Separable(nn.ReLU(), skip="after"),
        Separable(nn.ReLU(), skip="before"),
        Separable(nn.SiLU()),
        Separable(nn.Hardtanh(-1.0, 1.0)),
    ],
    ids=[
        "another reader",
        "another reader before the activation",
        "not homogeneous",
        "a clip from below 0",
    ],
)
def test_others_are_left_alone(module: nn.Module, tmp_path: Path) -> None:
    """Between expansion and depthwise convolution, that is; behind it there is a group."""
    model, feeds = loaded(module, tmp_path)
    before = weights(model, 0).copy()
    groups = find_coupled(model, {layer.name for layer in find_layers(model)})
    assert [[node.inputs[1].name for node in group.readers] for group in groups] == [
        ["project.weight"]
    ]
    equalise(model, find_layers(model), feeds)
    np.testing.assert_array_equal(weights(model, 0), before)


def test_a_weight_that_is_used_twice_is_left_alone(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(self.first(x)))

    model, _ = loaded(Twice(), tmp_path)
    assert find_coupled(model, {layer.name for layer in find_layers(model)}) == []
