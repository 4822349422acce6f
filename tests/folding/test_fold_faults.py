"""deployfold reports its own faults as its own, and still folds the rest of the network."""

from __future__ import annotations

import pytest
import torch
from fold_nets import randomise
from torch import nn

from deployfold.folding import fold
from deployfold.folding.rewrite import rewrite
from deployfold.folding.rules import RULES
from deployfold.folding.rules.into_producer import IntoProducers


def three_pairs() -> nn.Module:
    layers: list[nn.Module] = []
    for channels in (3, 4, 4):
        layers += [nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU()]
    return randomise(nn.Sequential(*layers))


def test_a_fault_of_the_rewriter_costs_what_it_touches(monkeypatch):
    real = rewrite.edit_layer

    def broken(model, edit, *exact):
        if edit.layer.weight == "3.weight":
            raise IndexError("a bug")
        return real(model, edit, *exact)

    monkeypatch.setattr(rewrite, "edit_layer", broken)
    result = fold(three_pairs(), (torch.randn(1, 3, 12, 12),))
    assert [item.name for item in result.folded] == ["1", "7"]
    (left,) = result.left
    assert "IndexError: a bug" in left.reason
    assert "bug in deployfold" in left.reason
    assert any("please report" in note for note in result.notes)


def test_a_fault_of_a_rule_costs_what_it_looks_at(monkeypatch):
    real = IntoProducers.propose

    def broken(self, affine_layer, context):
        if affine_layer.name == "4":
            raise IndexError("a bug")
        return real(self, affine_layer, context)

    monkeypatch.setattr(IntoProducers, "propose", broken)
    result = fold(three_pairs(), (torch.randn(1, 3, 12, 12),))
    # Another rule may fold it all the same.
    assert {"1", "7"} <= {item.name for item in result.folded}
    assert any("4: the rule" in note and "please report" in note for note in result.notes)


def test_a_rule_that_fails_as_a_whole_leaves_the_others(monkeypatch):
    (merge,) = (rule for rule in RULES if rule.name == "into the parallel branch")

    def broken(self, context):
        raise IndexError("a bug")

    monkeypatch.setattr(type(merge), "apply", broken)
    result = fold(three_pairs(), (torch.randn(1, 3, 12, 12),))
    assert result.batchnorms_after == 0
    assert any("into the parallel branch" in note for note in result.notes)


@pytest.mark.parametrize("square", [True, False])
def test_a_linear_branch_beside_a_norm_over_another_axis(square):
    """If a sequence is as long as wide, the sizes do not distinguish the axes."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6 if square else 5)
            self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            y = (self.linear(x) + self.norm(x)).relu()
            return self.one(y) + self.two(y)

    length = 6 if square else 5
    result = fold(randomise(Block()), (torch.randn(2, length, 6),))
    assert [item.name for item in result.left] == ["norm"]
    assert [item.name for item in result.folded] == ["two"]
    assert not result.notes
