"""Weights that a forward computes anew at each call are stored first, and fold then."""

from __future__ import annotations

import pickle

import pytest
import torch
from fold_nets import outputs_of, randomise
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from deployfold.folding import fold


def pruned(layer: nn.Module) -> nn.Module:
    prune.l1_unstructured(layer, "weight", 0.3)
    prune.ln_structured(layer, "weight", 0.5, n=2, dim=0)
    return prune.random_unstructured(layer, "bias", 0.3)


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


def doubled(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Doubled())
    parametrize.register_parametrization(layer, "bias", Doubled())
    return layer


WRAPPERS = {
    "pruning": pruned,
    "weight_norm": weight_norm,
    "WeightNorm": parametrizations.weight_norm,
    "spectral_norm": spectral_norm,
    "SpectralNorm": parametrizations.spectral_norm,
    "Doubled": doubled,
}


def network(wrapper) -> nn.Module:
    return randomise(
        nn.Sequential(
            wrapper(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4), nn.ReLU(),
            wrapper(nn.Conv2d(4, 4, 1)), nn.BatchNorm2d(4),
        )
    )  # fmt: skip


def image() -> torch.Tensor:
    return torch.randn(2, 3, 6, 6)


@pytest.mark.parametrize("kind", WRAPPERS)
def test_computed_weights_are_stored_and_fold(kind):
    model, x = network(WRAPPERS[kind]), image()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = model(x)
    result = fold(model, (x,))
    assert [item.name for item in result.folded] == ["1", "4"]
    assert kind in result.notes[0]
    assert {name for name, _ in result.model.named_parameters()} == {
        "0.weight", "0.bias", "3.weight", "3.bias",
    }  # fmt: skip
    assert not dict(result.model.named_buffers())
    (actual,) = outputs_of(pickle.loads(pickle.dumps(result.model)), x)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    # The model that was given still computes its weights.
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model(x), expected)


def test_they_can_be_kept():
    result = fold(network(weight_norm), (image(),), keep_parametrizations=True)
    assert not result.folded
    assert "0.weight_g" in dict(result.model.named_parameters())
    assert all("computed in forward" in item.reason for item in result.left)


def test_they_stay_where_the_forward_looks_at_them():
    class Looking(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.norm(self.conv(x)) * self.conv.weight_g.sum()

    result = fold(randomise(Looking()), (image(),))
    assert not result.folded
    assert "stay as they are" in result.notes[0]


def test_the_weights_of_a_recurrent_module_are_stored():
    model = weight_norm(nn.LSTM(4, 5), "weight_hh_l0").eval()
    x = torch.randn(3, 2, 4)
    result = fold(model, (x,))
    assert "weight_hh_l0" in dict(result.model.named_parameters())
    assert torch.equal(result.model(x)[0], model(x)[0])
