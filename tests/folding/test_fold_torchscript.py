"""TorchScript is folded in its graph, counted and proved."""

from __future__ import annotations

import pytest
import torch
from fold_nets import outputs_of, randomise
from torch import nn

from deployfold.errors import FoldError
from deployfold.folding import fold


def small() -> nn.Module:
    return randomise(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.BatchNorm2d(8)
        )
    )


@pytest.mark.parametrize("convert", [torch.jit.script, lambda m: torch.jit.trace(m, image())])
def test_counts_are_those_of_the_eager_model(convert):
    model = small()
    result = fold(convert(model), (image(),))
    eager = fold(model, (image(),))
    assert (result.parameters_before, result.parameters_after) == (
        eager.parameters_before,
        eager.parameters_after,
    )
    assert [item.name for item in result.folded] == ["1"]
    assert [item.name for item in result.left] == ["3"]
    assert (result.batchnorms_before, result.batchnorms_after) == (2, 1)
    x = image()
    torch.testing.assert_close(outputs_of(result.model, x), outputs_of(model, x))


def test_frozen_input_is_carried_through():
    frozen = torch.jit.freeze(torch.jit.script(small()))
    result = fold(frozen, (image(),))
    assert result.parameters_before == result.parameters_after > 0


def test_torchscript_that_fails_on_its_input_is_an_error():
    with pytest.raises(FoldError, match="cannot be frozen or run"):
        fold(torch.jit.script(small()), (torch.randn(1, 5, 6, 6),))


class Rate(nn.Module):
    def forward(self, x: torch.Tensor, rate: int) -> torch.Tensor:
        if rate != 16000:
            raise ValueError("Supported rate: 16000")
        return x


def test_an_exception_that_torchscript_code_raises_is_an_error():
    with pytest.raises(FoldError, match="Supported rate: 16000"):
        fold(torch.jit.script(Rate().eval()), (torch.ones(2), torch.tensor(1)))


def image() -> torch.Tensor:
    return torch.randn(2, 3, 6, 6)


def untrained() -> nn.Module:
    """Every BatchNorm has the same statistics, and so the same constants in a frozen graph."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 1),
        nn.BatchNorm2d(8),
    ).eval()


@pytest.mark.parametrize("convert", [torch.jit.script, lambda m: torch.jit.trace(m, image())])
def test_batchnorms_with_equal_statistics_are_told_apart(convert):
    result = fold(convert(untrained()), (image(),))
    assert [item.name for item in result.folded] == ["1", "5"]
    assert [item.name for item in result.left] == ["3"]
    assert (result.batchnorms_before, result.batchnorms_after) == (3, 1)
    eager = fold(untrained(), (image(),))
    # The eager model folds the third as well, into the convolution behind it.
    assert result.parameters_after == eager.parameters_after + 2 * 8


def test_a_module_that_runs_twice_is_left_if_one_place_is():
    model = untrained()
    model[3] = model[1]
    result = fold(torch.jit.trace(model, image()), (image(),))
    assert [item.name for item in result.left] == ["1"]
    assert (result.batchnorms_before, result.batchnorms_after) == (3, 1)


def test_training_mode_is_refused_and_kept():
    script = torch.jit.script(untrained().train())
    with pytest.raises(FoldError, match="training mode"):
        fold(script, (image(),))
    assert script.training
    assert script[1].training


def test_a_batch_norm_without_statistics_is_not_counted():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Conv2d(4, 4, 1),
        nn.BatchNorm2d(4),
    ).eval()  # fmt: skip
    result = fold(torch.jit.script(model), (image(),))
    assert [item.name for item in result.folded] == ["3"]
    assert result.batchnorms_before == 1


class OneType(nn.Module):
    """Makes float32 numbers in its code, so it does not run in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, rate: int) -> torch.Tensor:
        start = torch.zeros(1, 4, dtype=torch.float32)
        return self.cell(start) + x[:, : rate // 4000]


def test_a_model_without_batch_norms_stays_as_it_is():
    module = torch.jit.script(OneType().eval())
    result = fold(module, (torch.randn(1, 4), torch.tensor(16000)))
    assert result.model is module
    assert (result.parameters_after, result.verification.float64_relative) == (20, 0.0)
