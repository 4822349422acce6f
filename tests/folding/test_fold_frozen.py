"""A frozen BatchNorm written as arithmetic, in the ways that people write it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fold_nets import folded
from torch import Tensor, nn


class Frozen(nn.Module):
    """Buffers alone, and a forward that is given: ``(x, weight, bias, mean, deviation)``."""

    def __init__(self, channels: int, formula: Callable[..., Tensor]) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean"):
            self.register_buffer(name, torch.randn(channels))
        self.register_buffer("running_var", torch.rand(channels) + 0.5)
        self._formula = formula

    def forward(self, x: Tensor) -> Tensor:
        deviation = (self.running_var + 1e-5).sqrt()
        return self._formula(x, self.weight, self.bias, self.running_mean, deviation)


def wide(item: Tensor) -> Tensor:
    return item.view(1, -1, 1, 1)


def permuted(x, w, b, m, d):
    return ((x.permute(0, 2, 3, 1) - m) / d * w + b).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    "formula",
    [
        lambda x, w, b, m, d: x * wide(w / d) + wide(b - m * w / d),
        lambda x, w, b, m, d: (x - wide(m)) / wide(d) * wide(w) + wide(b),
        lambda x, w, b, m, d: wide(b) - (wide(m) - x) * wide(w / d),
        lambda x, w, b, m, d: torch.addcmul(wide(b - m * w / d), x, wide(w / d)),
        lambda x, w, b, m, d: torch.einsum("nchw,c->nchw", x, w / d) + wide(b - m * w / d),
        permuted,
    ],
)
def test_formula_is_folded(formula):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), Frozen(4, formula), nn.ReLU(), nn.Conv2d(4, 4, 3), Frozen(4, formula)
    )
    folded(model.eval(), torch.randn(2, 3, 8, 8), gone=2)


@pytest.mark.parametrize(
    "formula",
    [
        lambda x, w, b, m, d: wide(w) / (x + wide(m)),  # not affine
        lambda x, w, b, m, d: torch.einsum("nchw,c->nchw", x.flip(1), w),  # not by channel
        lambda x, w, b, m, d: x * torch.ones(x.shape[2], 1) * torch.arange(6.0) + wide(b),
        lambda x, w, b, m, d: torch.einsum("nchw,cd->ndhw", x, w[:, None] * d),  # mixes channels
    ],
)
def test_other_arithmetic_is_left(formula):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Frozen(4, formula)).eval()
    folded(model, torch.randn(2, 3, 8, 8), gone=0, left=1)


def test_folding_where_no_gradients_are_wanted():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Frozen(4, permuted)).eval()
    with torch.no_grad():
        folded(model, torch.randn(2, 3, 8, 8), gone=1)
