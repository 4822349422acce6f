"""Layers in less frequent forms: deformable, recurrent, and with a stored matrix turned."""

from __future__ import annotations

import pytest
import torch
from fold_nets import outputs_of, randomise
from torch import nn
from torch.nn import functional
from torchvision.ops import DeformConv2d

from deployfold.folding import fold


def check(model: nn.Module, x: torch.Tensor, *names: str):
    result = fold(randomise(model), (x,))
    assert [item.name for item in result.folded] == list(names), result.left
    assert result.verification.float64_relative < 1e-13
    torch.testing.assert_close(
        outputs_of(result.model, x), outputs_of(model, x), rtol=1e-4, atol=1e-5
    )
    return result


class Deformed(nn.Module):
    def __init__(self, bias: bool, groups: int, masked: bool):
        super().__init__()
        self.offset, self.mask = nn.Conv2d(4, 18, 3, padding=1), nn.Conv2d(4, 9, 3, padding=1)
        self.first = DeformConv2d(4, 6, 3, padding=1, bias=bias, groups=groups)
        self.norm, self.masked = nn.BatchNorm2d(6), masked

    def forward(self, x):
        mask = torch.sigmoid(self.mask(x)) if self.masked else None
        return self.norm(self.first(x, self.offset(x), mask))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_a_deformable_convolution_takes_up_what_follows(bias, groups, masked):
    result = check(Deformed(bias, groups, masked), torch.randn(2, 4, 8, 8), "norm")
    assert result.model.first.bias is not None


def test_a_deformable_convolution_takes_no_shift_before_it():
    class Before(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.offset = nn.BatchNorm2d(3), nn.Conv2d(3, 18, 3)
            self.layer = DeformConv2d(3, 4, 3)

        def forward(self, x):
            y = self.norm(torch.tanh(x))
            return self.layer(y, self.offset(x))

    result = fold(randomise(Before()), (torch.randn(2, 3, 8, 8),))
    assert not result.folded
    assert "takes zeros beyond its borders" in result.left[0].reason


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module):
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(4), layer

    def forward(self, x):
        y = self.norm(torch.tanh(x))
        if isinstance(self.layer, nn.RNNCellBase):
            return self.layer(y.mean(2))
        return self.layer(y.transpose(1, 2))


RECURRENT = {
    "LSTM": lambda: nn.LSTM(4, 5, batch_first=True),
    "two layers both ways": lambda: nn.GRU(4, 5, 2, bidirectional=True, batch_first=True),
    "projected": lambda: nn.LSTM(4, 5, proj_size=3, bidirectional=True),
    "RNN": lambda: nn.RNN(4, 5, nonlinearity="relu"),
    "LSTMCell": lambda: nn.LSTMCell(4, 5),
    "GRUCell": lambda: nn.GRUCell(4, 5),
}


@pytest.mark.parametrize("kind", RECURRENT)
def test_a_recurrent_layer_takes_up_what_comes_before(kind):
    result = check(Recurrent(RECURRENT[kind]()), torch.randn(3, 4, 6), "norm")
    assert result.folded[0].into[0].startswith("layer")


def test_a_recurrent_layer_without_a_bias_cannot_take_a_shift():
    result = fold(randomise(Recurrent(nn.LSTM(4, 5, bias=False))), (torch.randn(3, 4, 6),))
    assert "has no bias" in result.left[0].reason


class Turned(nn.Module):
    def __init__(self, turn):
        super().__init__()
        self.weight, self.norm = nn.Parameter(torch.randn(4, 6)), nn.BatchNorm1d(6)
        self.second, self.turn = nn.Parameter(torch.randn(6, 3)), turn

    def forward(self, x):
        y = functional.linear(x, self.turn(self.weight))
        return functional.linear(torch.tanh(self.norm(y)), self.turn(self.second))


@pytest.mark.parametrize(
    "turn", [torch.t, lambda w: w.T, lambda w: w.transpose(0, 1), lambda w: w.permute(1, 0)]
)
def test_a_matrix_that_is_stored_the_other_way_round(turn):
    check(Turned(turn), torch.randn(3, 4), "norm")


def test_a_turned_matrix_that_others_read_stays():
    class Shared(Turned):
        def forward(self, x):
            return super().forward(x) + self.weight.sum()

    result = fold(randomise(Shared(torch.t)), (torch.randn(3, 4),))
    assert "also used by" in result.left[0].reason
