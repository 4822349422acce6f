"""Tests of the judge: the judge finds foldable BatchNorms, and only those."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from derivative_check import ABSORBED, residuals


class Net(nn.Module):
    def __init__(self, order: str):
        super().__init__()
        padding = 1 if order == "norm, padded conv" else 0
        self.first, self.second = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 5, 3, padding=padding)
        self.norm, self.last = nn.BatchNorm2d(5), nn.Linear(5, 4)
        self.order = order
        nn.init.uniform_(self.norm.running_mean, -1, 1)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, x):
        y = self.first(x)
        if self.order == "conv, norm":
            y = self.second(self.norm(y).relu())
        elif self.order == "shared":
            y = self.second(self.norm(y).relu()) + y[:, :, 1:-1, 1:-1].sigmoid()
        elif self.order == "activation, norm":
            y = self.second(self.norm(y.tanh()).tanh())
        else:
            y = self.second(self.norm(y.tanh()))
        return self.last(y.tanh().mean((2, 3)))


@pytest.mark.parametrize(
    ("order", "foldable"),
    [
        ("conv, norm", True),
        ("norm, conv", True),
        ("norm, padded conv", False),
        ("shared", False),
        ("activation, norm", False),
    ],
)
def test_judge(order, foldable):
    torch.manual_seed(0)
    found = residuals(Net(order).eval(), (1, 3, 9, 9), ["norm"])["norm"]
    assert (found < ABSORBED) is foldable, found
