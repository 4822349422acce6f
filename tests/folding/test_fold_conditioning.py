"""A wrong fold is refused; a model that magnifies rounding is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fold_nets import Net, randomise
from torch import nn

from deployfold.errors import FoldError
from deployfold.folding import fold
from deployfold.folding.graph.trace import trace
from deployfold.folding.modules import copy_modules
from deployfold.folding.proof.verify import verify
from deployfold.folding.rewrite.rewrite import apply
from deployfold.folding.rewrite.weights import Exact
from deployfold.folding.rules.match import match

AMPLIFICATION = 1e9


def amplifier(self, x):
    """Rounding of 1e-16 in the features becomes 1e-7 in the output."""
    y = self.head(torch.relu(self.norm(self.pool(self.conv(x)))))
    z = y.mean((2, 3))
    return torch.sin(z * AMPLIFICATION)


def ill_conditioned() -> nn.Module:
    return randomise(
        Net(
            amplifier,
            conv=nn.Conv2d(3, 8, 3),
            pool=nn.Dropout(),  # a module between the layer and the norm has to change as well
            norm=nn.BatchNorm2d(8),
            head=nn.Conv2d(8, 4, 3),
        )
    )


def test_a_model_that_magnifies_rounding_is_folded_and_says_so():
    result = fold(ill_conditioned().double(), (torch.randn(2, 3, 12, 12).double(),))
    assert result.batchnorms_after == 0
    assert result.verification.float64_relative > 1e-9
    assert "ill-conditioned" in result.verification.note


@pytest.mark.parametrize("part", ["scale", "shift"])
def test_a_wrong_fold_of_such_a_model_is_refused(part):
    model = ill_conditioned().double()
    inputs = (torch.randn(2, 3, 12, 12).double(),)
    plan = match(trace(model, inputs), model)
    (edit,) = plan.layers
    if part == "shift":
        wrong = replace(edit, shift=edit.shift * 1.001)
    else:
        term = edit.terms[0]
        wrong = replace(edit, terms=[replace(term, rows=term.rows * 1.001)])
    plan = replace(plan, layers=[wrong])
    exact = Exact(model)
    folded = apply(plan, copy_modules(model, share_parameters=False), exact)
    with pytest.raises(FoldError, match="first at head"):
        verify(model, folded, plan, [inputs], exact=exact)


def test_boxes_of_nearly_equal_score_may_change_places():
    """Detectors order their output by score, so the last bit of a score can decide the order."""

    def forward(self, x):
        scores = self.norm(self.conv(x)).mean((2, 3)).flatten()
        ties = scores[:1] + (scores - scores) * 1e-3
        order = torch.argsort(ties + (scores - scores[:1]) * 1e-30 + scores.sin() * 1e-17)
        return torch.arange(len(order), dtype=x.dtype)[order]

    model = randomise(Net(forward, conv=nn.Conv2d(3, 64, 3), norm=nn.BatchNorm2d(64)))
    result = fold(model.double(), (torch.randn(1, 3, 8, 8).double(),))
    assert result.batchnorms_after == 0
