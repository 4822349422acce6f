"""Clips from 0 are moved around 0 where nothing pads, and the function stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from lower_toys import outputs, prepared
from torch import nn

from deployfold.lowering.qdq.layers import find_layers
from deployfold.lowering.qdq.recentre import SHIFT_KEY, recentre


def moved(module: nn.Module, directory: Path) -> list[ir.Node]:
    """Move what can be; check that the function stays; the Clips that were moved."""
    torch.manual_seed(0)
    inputs = 8 * torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    model, feeds = prepared(module, inputs, directory)
    before = outputs(model, feeds)
    operators = [node.op_type for node in model.graph]
    count = recentre(model, find_layers(model), feeds)
    assert [node.op_type for node in model.graph] == operators
    for old, new in zip(before, outputs(model, feeds), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-4)
    clips = [n for n in model.graph if n.op_type == "Clip" and SHIFT_KEY in n.metadata_props]
    assert len(clips) == count
    return clips


def test_a_projection_reads_what_lies_around_zero(tmp_path):
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU6(), nn.Conv2d(8, 4, 1, groups=2), nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5),
    )  # fmt: skip
    clips = moved(net, tmp_path)
    assert len(clips) == 2
    for clip in clips:
        low, high = (value.const_value.numpy().item() for value in clip.inputs[1:3])
        assert high - low == pytest.approx(6)
        assert low == pytest.approx(-float(clip.metadata_props[SHIFT_KEY]))
        assert -3.0 <= low < -0.5


class Branching(nn.Module):
    """A ReLU6 with several readers."""

    def __init__(self, *, also: str) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.padded, self.also = nn.Conv2d(8, 4, 3, padding=1), also

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.relu6(self.first(x))
        out = self.second(y)
        if self.also == "layer":
            out = (
                out
                + self.second.bias.sum() * 0
                + self.padded(x.mean(1, True).expand(-1, 8, -1, -1))
            )
        if self.also == "padded":
            out = out + self.padded(y)
        if self.also == "product":
            out = out * y.mean()
        return out


@pytest.mark.parametrize(("also", "count"), [("layer", 0), ("padded", 0), ("product", 0), ("", 1)])
def test_every_reader_compensates_for_the_centring(also, count, tmp_path):
    """Zero padding would have to become -c, and a bias with other readers must stay."""
    assert len(moved(Branching(also=also), tmp_path)) == count


def test_a_relu_and_a_layer_without_a_bias_are_left(tmp_path):
    plain = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    assert moved(plain, tmp_path) == []
    bare = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU6(), nn.Conv2d(8, 4, 1, bias=False))
    assert moved(bare, tmp_path) == []


def test_outliers_do_not_move_the_middle(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU6(), nn.Conv2d(8, 4, 1))
    with torch.no_grad():
        net[0].weight *= 0.02  # most lie far below 6
        net[0].bias.fill_(0.5)
    (clip,) = moved(net, tmp_path)
    assert float(clip.metadata_props[SHIFT_KEY]) < 1.0
