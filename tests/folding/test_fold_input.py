"""Input normalisation folds into the first layer; its shift stays where that pads with zeros."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fold_nets import Net, outputs_of, randomise
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.transforms import Normalize

from deployfold.folding import Normalised, fold
from deployfold.folding.rewrite.rewrite import Shift

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 9, 9), dtype=torch.uint8)


def network(padding: int, **settings) -> nn.Module:
    return randomise(
        nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=padding, **settings), nn.BatchNorm2d(4), nn.ReLU(),
            nn.Conv2d(4, 2, 3, padding=1),
        )
    )  # fmt: skip


def check(model: nn.Module, x: torch.Tensor):
    result = fold(model, (x,))
    assert result.verification.float64_relative < 1e-13
    expected, actual = outputs_of(model, x), outputs_of(result.model, x)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    (scale,) = [item for item in result.folded if item.kind == "scale"]
    return result, scale


@pytest.mark.parametrize("padding", [0, 1])
def test_uint8_pictures(padding):
    result, scale = check(Normalised(network(padding), MEAN, STD), pixels())
    assert scale.into == ("model.0",)
    assert result.batchnorms_after == 0
    rest = result.model.normalise
    if padding:
        assert "the shift stays" in scale.rule
        assert isinstance(rest, Shift)
        expected = -255 * torch.tensor(MEAN)
        torch.testing.assert_close(rest.shift.flatten(), expected)
    else:
        assert scale.rule == "into the consumer"
        assert isinstance(rest, nn.Identity)


def test_padding_that_repeats_pixels_takes_the_shift():
    _, scale = check(Normalised(network(1, padding_mode="reflect"), MEAN, STD), pixels())
    assert scale.rule == "into the consumer"


FORWARDS = {
    "divided": lambda self, x: self.net((x.float() / 255 - self.mean) / self.std),
    "multiplied": lambda self, x: self.net(x.float().mul(1 / 255).sub(self.mean).mul(self.std)),
    "symmetric": lambda self, x: self.net(2 * (x.to(torch.float32) / 255) - 1),
    "turned": lambda self, x: self.net(1 - x.float() / 255),
    "constant first": lambda self, x: self.net(self.mean - self.std * x.float()),
    "weighted": lambda self, x: self.net(torch.add(self.mean, x.float(), alpha=0.5)),
}


def with_forward(forward, padding: int) -> nn.Module:
    """A module of a class of its own with this forward, which torch.fx can trace."""
    model = type("Normalising", (nn.Module,), {"forward": forward})()
    model.net = network(padding)
    model.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
    model.register_buffer("std", torch.tensor(STD)[:, None, None])
    return model.eval()


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("kind", FORWARDS)
def test_arithmetic_in_a_forward(kind, padding):
    scale = check(with_forward(FORWARDS[kind], padding), pixels())[1]
    assert scale.into == ("net.0",)
    assert ("the shift stays" in scale.rule) == bool(padding)


@given(
    scale=st.lists(st.floats(0.1, 10), min_size=3, max_size=3),
    mean=st.lists(st.floats(-100, 100), min_size=3, max_size=3),
    padding=st.integers(0, 1),
)
def test_any_normalisation(scale, mean, padding):
    check(Normalised(network(padding), mean, scale, 1.0), pixels())


def test_an_input_with_other_readers_stays_unscaled():
    def forward(self, x):
        x = x.float() / 255 - 0.5
        return self.net(x), x

    result = fold(with_forward(forward, 0), (pixels(),))
    assert not any(item.kind == "scale" for item in result.folded)


def test_integers_that_the_arithmetic_itself_converts_stay():
    result = fold(with_forward(lambda self, x: self.net(x / 255), 0), (pixels(),))
    assert not any(item.kind == "scale" for item in result.folded)
    assert result.batchnorms_after == 0


def test_no_reparam_leaves_the_scale():
    result = fold(Normalised(network(1), MEAN, STD), (pixels(),), reparam=False)
    assert not any(item.kind == "scale" for item in result.folded)


def test_a_batchnorm_that_stays_does_not_hear_of_inputs():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Tanh())
    result = fold(randomise(model), (torch.randn(2, 3, 6, 6),))
    assert "input's" not in result.left[0].reason.replace("model's input", "")
    assert "shift stays" not in result.left[0].reason


def test_torchvisions_normalize_in_a_forward_reads_no_data_and_folds():
    model = nn.Sequential(Normalize(MEAN, STD), network(0))
    result, scale = check(model, torch.rand(2, 3, 9, 9))
    assert (scale.name, scale.rule) == ("0", "into the consumer")
    assert result.notes == ()


@pytest.mark.parametrize("make", [torch.as_tensor, torch.tensor, torch.from_numpy])
def test_numbers_of_the_code_are_constants_and_numbers_from_data_are_not(make):
    def constant(self, x):
        numbers = np.array(STD) if make is torch.from_numpy else STD
        spread = make(numbers).to(x.dtype)
        if (spread == 0).any():
            raise ValueError("std is 0")
        return self.body(x / spread.view(-1, 1, 1))

    def computed(self, x):
        numbers = x.detach().flatten()[:3].numpy()
        spread = make(numbers if make is torch.from_numpy else numbers.tolist()).to(x.dtype)
        if (spread == 0).any():
            raise ValueError("std is 0")
        return self.body(x / spread.view(-1, 1, 1))

    x = torch.rand(2, 3, 9, 9) + 0.5
    assert fold(Net(constant, body=network(0)).eval(), (x,)).notes == ()
    (note,) = fold(Net(computed, body=network(0)).eval(), (x,)).notes
    assert "numpy in the forward" in note
    assert "is_nonzero in the forward" in note
