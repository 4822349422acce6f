"""The reference results, and real architectures of every kind the rules were written for."""

from __future__ import annotations

import pytest
import torch
from fold_nets import randomise

from deployfold.folding import fold

torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")


@pytest.mark.parametrize(("name", "lost"), [("vgg16_bn", 8_448), ("resnet50", 26_560)])
@pytest.mark.parametrize("trained", [True, False])
def test_reference_result(name, lost, trained):
    """The cases include freshly initialised nets, whose BatchNorms do not shift yet."""
    model = torchvision.models.get_model(name, weights=None).eval()
    model = randomise(model, positive=True) if trained else model
    result = fold(model, (torch.randn(1, 3, 64, 64),))
    assert result.parameters_before - result.parameters_after == lost
    assert result.batchnorms_after == 0
    assert result.left == ()
    assert type(result.model) is type(model)
    assert result.verification.float64_relative < 1e-9


@pytest.mark.parametrize(
    ("name", "size", "left"),
    [
        ("mobilenetv3_small_050", 64, 0),
        ("efficientnet_b0", 64, 0),  # BatchNormAct2d
        ("levit_128s", 224, 0),  # Linear, flatten, BatchNorm1d, reshape_as
        ("repvgg_a0", 64, 0),  # parallel branches
        ("mobileone_s0", 64, 0),
        ("fastvit_t8", 128, 0),  # in-place sums, LayerScale
        ("repvit_m0_9", 64, 0),  # a bare skip inside the norm
        ("repghostnet_050", 64, 0),
        ("visformer_tiny", 224, 0),  # BatchNorm before convolutions
        ("densenet121", 64, 59),  # pre-activation on shared concatenations: one goes of each block
    ],
)
def test_timm_architecture(name, size, left):
    model = randomise(timm.create_model(name), positive=True)
    result = fold(model, (torch.randn(1, 3, size, size),))
    assert len(result.left) == left, result.left[:3]
    assert result.batchnorms_after == left
    assert result.verification.float64_relative < 1e-9


def test_exported_program_is_folded_in_its_graph():
    model = randomise(torchvision.models.resnet18(weights=None), positive=True)
    inputs = (torch.randn(1, 3, 64, 64),)
    eager = fold(model, inputs)
    program = fold(torch.export.export(model, inputs).module(), inputs)
    assert program.left == ()
    assert program.parameters_after == eager.parameters_after
