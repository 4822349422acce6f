"""Models in half precision on a CPU are folded in float32, and delivered in their own dtype."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from fold_nets import device_of
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
        if device_of(x) != "meta":
            self.calls.append(x.dtype)
        return self.norm(self.conv(x)).relu()


def half(scale: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    Net.calls.clear()
    return Net(scale).eval().half()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_model_does_not_run_in_half(dtype: torch.dtype) -> None:
    model, x = half().to(dtype), torch.randn(2, 3, 8, 8).to(dtype)
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))  # of another dtype, with inf
    result = fold(model, (x,))
    assert dtype not in Net.calls
    assert result.batchnorms_after == 0
    assert {one.dtype for one in result.model.parameters()} == {dtype}
    assert result.model.mask.dtype == torch.float32
    assert any("folded and proved in float32" in note for note in result.notes)
    assert result.verification.float64_relative is not None
    with torch.no_grad():
        difference = (result.model.float()(x.float()) - model.float()(x.float())).abs().max()
    assert 0 < difference == result.verification.native_max_abs < 0.1


def test_weights_beyond_float16_are_refused() -> None:
    model = half(scale=6e4)
    model.norm.running_var.mul_(1e-3)
    with pytest.raises(FoldError, match=r"larger than torch\.float16 can hold"):
        fold(model, (torch.randn(2, 3, 8, 8).half() * 1e-3,))
    assert torch.float16 not in Net.calls


def test_code_that_computes_in_half_is_folded_in_half() -> None:
    class Casts(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.half())

    Net.calls.clear()
    result = fold(Casts().eval().half(), (torch.randn(2, 3, 8, 8).half(),))
    assert result.batchnorms_after == 0
    assert {one.dtype for one in result.model.parameters()} == {torch.float16}
