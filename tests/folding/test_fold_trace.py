"""Tracing: without numbers where the model lets it, and with them where it does not."""

from __future__ import annotations

import pytest
import torch
from fold_nets import Net, folded, randomise
from torch import nn

from deployfold.errors import FoldError
from deployfold.folding import fold
from deployfold.folding.graph.trace import trace


def image() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8)


def test_a_plain_model_is_traced_without_computing():
    seen = []

    def forward(self, x):
        seen.append(x.device.type)
        return self.norm(self.conv(x))

    net = randomise(Net(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)))
    graph = trace(net, (image(),))
    assert seen == ["meta"]
    assert [op.name for op in graph.ops] == ["conv2d", "batch_norm"]
    assert {tensor.device.type for tensor in (*net.parameters(), *net.buffers())} == {"cpu"}


def test_code_that_needs_numbers_is_traced_with_them():
    seen = []

    def forward(self, x):
        seen.append(x.device.type)
        y = self.norm(self.conv(x))
        return y * 2 if x.mean().item() < 1e9 else y

    net = randomise(Net(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)))
    trace(net, (image(),))
    assert seen == ["meta", "cpu"]
    folded(net, image(), gone=1)


def test_tensors_that_share_their_numbers_are_traced_with_them():
    """A write to one that a pass without numbers cannot see to change the other."""

    def forward(self, x):
        self.alias.add_(1.0)
        return self.norm(self.conv(x))

    net = randomise(Net(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)))
    net.alias = nn.Parameter(net.norm.weight.detach())
    graph = trace(net, (image(),))
    assert "norm.weight" in graph.mutated


def test_an_input_that_only_its_numbers_make_invalid_is_named():
    def forward(self, x, index):
        return self.norm(self.conv(x)) + self.table(index).sum()

    net = Net(
        forward,
        conv=nn.Conv2d(3, 4, 3),
        norm=nn.BatchNorm2d(4),
        table=nn.Embedding(4, 2),
    )
    with pytest.raises(FoldError, match="fails on the example input 2x3x8x8, 1: IndexError"):
        fold(randomise(net), (image(), torch.tensor([9])))
