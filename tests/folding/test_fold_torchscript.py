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


def test_wrong_input_is_one_sentence():
    with pytest.raises(FoldError, match="cannot be frozen or run"):
        fold(torch.jit.script(small()), (torch.randn(1, 5, 6, 6),))


def image() -> torch.Tensor:
    return torch.randn(2, 3, 6, 6)
