"""Weights, layouts and dtypes out of the ordinary: folded, or left with the reason."""

from __future__ import annotations

import torch
from fold_nets import Net, folded, randomise, reason
from torch import nn
from torch.nn.utils import prune

from deployfold.folding import fold


def pair() -> nn.Sequential:
    return randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))


def image() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8)


def test_denormal_weights_are_folded():
    model = pair()
    with torch.no_grad():
        model[0].weight.mul_(1e-40)
    folded(model, image(), gone=1)


def test_a_denormal_variance_is_folded():
    model = pair()
    model[1].running_var.fill_(1e-42)
    model[1].eps = 1e-12
    folded(model, image(), gone=1)


def test_channels_last_stays():
    model = pair().to(memory_format=torch.channels_last)
    result = folded(model, image().to(memory_format=torch.channels_last), gone=1)
    assert result.model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_pruned_weights_stay_zero():
    """The weight is computed from weight_orig and the mask before every call, and stored here."""
    model = pair()
    prune.l1_unstructured(model[0], "weight", 0.5)
    zeros = model[0].weight_mask == 0
    result = folded(model, image(), gone=1)
    assert torch.equal(result.model[0].weight == 0, zeros)


def test_permanently_pruned_weights_fold_and_stay_zero():
    model = pair()
    prune.l1_unstructured(model[0], "weight", 0.5)
    prune.remove(model[0], "weight")
    zeros = model[0].weight == 0
    result = folded(model, image(), gone=1)
    assert torch.equal(result.model[0].weight == 0, zeros)


def test_a_complex_layer_is_not_touched():
    model = Net(
        lambda self, x: self.norm(self.conv(x.to(torch.complex64)).abs()),
        conv=nn.Conv2d(3, 4, 3, dtype=torch.complex64),
        norm=nn.BatchNorm2d(4),
    )
    model = randomise(model)
    result = fold(model, (image(),))
    assert not result.folded
    assert "abs" in reason(result)
    assert torch.equal(result.model.conv.weight, model.conv.weight)
