"""float16 models on a CPU are folded in float32, and delivered in float16."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

from deployfold.errors import FoldError
from deployfold.folding import fold


class Net(nn.Module):
    """Remembers the dtype of every call."""

    calls: ClassVar[list[torch.dtype]] = []

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        torch.nn.init.normal_(self.norm.running_mean)
        self.norm.running_var.mul_(2.0)
        self.norm.weight.data.mul_(scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != "meta":
            self.calls.append(x.dtype)
        return self.norm(self.conv(x)).relu()


def half(scale: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    Net.calls.clear()
    return Net(scale).eval().half()


def test_a_half_model_runs_twice_in_half() -> None:
    model, x = half(), torch.randn(2, 3, 8, 8).half()
    result = fold(model, (x,))
    assert Net.calls.count(torch.float16) == 2, "the original and the folded model, once each"
    assert result.batchnorms_after == 0
    assert {one.dtype for one in result.model.parameters()} == {torch.float16}
    assert any("folded in float32" in note for note in result.notes)
    assert result.verification.float64_relative is not None
    with torch.no_grad():
        difference = (result.model(x) - model(x)).abs().max().item()
    assert 0 < difference == result.verification.native_max_abs < 0.01


def test_weights_beyond_float16_are_refused_as_before() -> None:
    model = half(scale=6e4)
    model.norm.running_var.mul_(1e-3)
    with pytest.raises(FoldError, match=r"larger than torch\.float16 can hold"):
        fold(model, (torch.randn(2, 3, 8, 8).half() * 1e-3,))


def test_code_that_computes_in_half_is_folded_in_half() -> None:
    class Casts(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.half())

    Net.calls.clear()
    result = fold(Casts().eval().half(), (torch.randn(2, 3, 8, 8).half(),))
    assert result.batchnorms_after == 0
    assert {one.dtype for one in result.model.parameters()} == {torch.float16}
