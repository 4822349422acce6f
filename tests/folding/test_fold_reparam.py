"""Parallel branches become one layer, and constant scales fold into the layers before them."""

from __future__ import annotations

import pickle

import pytest
import torch
from fold_nets import Net, folded, outputs_of, randomise
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis_examples import examples
from torch import nn

from deployfold.folding import Zero


class RepBlock(nn.Module):
    """k×k + 1×1 + identity, each with its BatchNorm, as RepVGG trains it."""

    def __init__(self, channels: int, kernel: int = 3, groups: int = 1, stride: int = 1):
        super().__init__()
        options = {"groups": groups, "stride": stride, "bias": False}
        self.large = nn.Sequential(
            nn.Conv2d(channels, channels, kernel, padding=kernel // 2, **options),
            nn.BatchNorm2d(channels),
        )
        self.small = nn.Sequential(
            nn.Conv2d(channels, channels, 1, **options), nn.BatchNorm2d(channels)
        )
        self.identity = nn.BatchNorm2d(channels) if stride == 1 else None

    def forward(self, x):
        y = self.large(x) + self.small(x)
        return (y if self.identity is None else y + self.identity(x)).relu()


class InPlaceBlock(RepBlock):
    """The identity branch comes first and the others are added into it."""

    def forward(self, x):
        y = self.identity(x)
        for branch in (self.large, self.small):
            y += branch(x)
        return y


def layers_in(model: nn.Module) -> int:
    return sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in model.modules())


@settings(max_examples=examples(25))
@given(
    kernel=st.sampled_from([1, 3, 5]),
    groups=st.sampled_from([1, 2, 4]),
    stride=st.sampled_from([1, 2]),
    seed=st.integers(0, 100),
)
def test_repvgg_block_becomes_one_convolution(kernel, groups, stride, seed):
    model = randomise(RepBlock(4, kernel, groups, stride), seed)
    result = folded(model, torch.randn(2, 4, 7, 7), gone=3 if stride == 1 else 2)
    assert layers_in(result.model) == 1
    assert type(result.model) is RepBlock


def test_in_place_sum_keeps_a_full_size_branch_on_its_left():
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), InPlaceBlock(4)))
    result = folded(model, torch.randn(2, 3, 7, 7), gone=3)
    assert layers_in(result.model) == 2


def test_no_reparam_leaves_the_branches():
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), RepBlock(4)))
    result = folded(model, torch.randn(2, 3, 7, 7), gone=2, left=1, reparam=False)
    assert layers_in(result.model) == 3


def test_norm_over_a_sum_with_a_bare_skip():
    """RepViT: norm(conv3×3(x) + conv1×1(x) + x)."""
    model = Net(
        lambda self, x: self.norm(self.large(x) + self.small(x) + x),
        large=nn.Conv2d(4, 4, 3, padding=1, groups=4),
        small=nn.Conv2d(4, 4, 1, groups=4),
        norm=nn.BatchNorm2d(4),
    )
    result = folded(randomise(model), torch.randn(2, 4, 7, 7), gone=1)
    assert layers_in(result.model) == 1


def test_kernels_that_do_not_cover_each_other_stay_apart():
    model = Net(
        lambda self, x: self.tall(x) + self.wide(x),
        tall=nn.Conv2d(4, 4, (3, 1), padding=(1, 0)),
        wide=nn.Conv2d(4, 4, (1, 3), padding=(0, 1)),
    )
    assert layers_in(folded(model.eval(), torch.randn(2, 4, 7, 7), gone=0).model) == 2


def test_branches_over_different_inputs_stay_apart():
    model = Net(
        lambda self, x: self.a(x) + self.b(x.relu()),
        a=nn.Conv2d(4, 4, 1),
        b=nn.Conv2d(4, 4, 1),
    )
    assert layers_in(folded(model.eval(), torch.randn(2, 4, 7, 7), gone=0).model) == 2


def test_difference_of_linear_branches():
    model = Net(
        lambda self, x: self.a(x) - self.b(x), a=nn.Linear(4, 5), b=nn.Linear(4, 5, bias=False)
    )
    assert layers_in(folded(model.eval(), torch.randn(2, 4), gone=0).model) == 1


def test_branch_with_another_reader_stays():
    def forward(self, x):
        y = self.a(x)
        return y + self.b(x) + y.mean()

    model = Net(forward, a=nn.Conv2d(4, 4, 1), b=nn.Conv2d(4, 4, 1))
    assert layers_in(folded(model.eval(), torch.randn(2, 4, 7, 7), gone=0).model) == 2


class LayerScale(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.randn(width))

    def forward(self, x):
        return x * self.gamma


def test_layer_scale_goes_into_the_linear_layer_before_it():
    model = Net(
        lambda self, x: x + self.scale(self.out(x)), out=nn.Linear(4, 4), scale=LayerScale(4)
    )
    result = folded(model.eval(), torch.randn(3, 4), gone=0)
    assert [(item.kind, item.into) for item in result.folded] == [("scale", ("out",))]
    assert isinstance(result.model.scale, nn.Identity)
    assert result.parameters_before - result.parameters_after == 4


class ScaledBlock(nn.Module):
    def __init__(self, optional: bool):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.gamma = nn.Parameter(torch.randn(4))
        self.optional = optional

    def forward(self, x):
        y = self.conv(x)
        if not self.optional:
            return x + self.gamma.view(-1, 1, 1) * y
        return x + (y if self.gamma is None else y * self.gamma.reshape(1, -1, 1, 1))


@pytest.mark.parametrize("optional", [True, False])
def test_scale_parameter_of_a_block(optional):
    result = folded(ScaledBlock(optional), torch.randn(2, 4, 5, 5), gone=0)
    assert [item.kind for item in result.folded] == ["scale"]
    assert (result.model.gamma is None) is optional


def test_zero_can_be_pickled_and_scripted():
    result = folded(randomise(RepBlock(4)), torch.randn(2, 4, 7, 7), gone=3)
    assert sum(isinstance(module, Zero) for module in result.model.modules()) == 2
    x = torch.randn(2, 4, 7, 7)
    (expected,) = outputs_of(result.model, x)
    again = pickle.loads(pickle.dumps(result.model))
    torch.testing.assert_close(again(x), expected)
    block = nn.Sequential(Zero())
    assert torch.jit.script(block)(x).item() == 0
    torch.testing.assert_close(torch.export.export(result.model, (x,)).module()(x), expected)


def test_a_branch_is_merged_before_its_norm_goes_elsewhere():
    """The layers around the BatchNorm could take it up, but the sum would then stay."""

    def forward(self, x):
        y = self.stem(x)
        return self.norm(y) + self.conv(y)

    model = Net(forward, stem=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4), conv=nn.Conv2d(4, 4, 1))
    result = folded(randomise(model, positive=True), torch.randn(2, 3, 6, 6), gone=1)
    assert result.folded[0].rule == "into the parallel branch"
