"""Copies equal those of ``copy.deepcopy``, for any references between modules."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from deployfold.folding.modules import copy_modules


class Cyclic(nn.Module):
    """Child and parent know each other outside of the module tree, and share a list."""

    def __init__(self) -> None:
        super().__init__()
        self.child = nn.Linear(3, 3)
        self.child.parent_of = [self]
        self.cache: dict[str, torch.Tensor] = {}
        self.shared = self.child.shared = [1, 2]
        self.register_buffer("steps", torch.zeros(1))


class OwnCopy(nn.Linear):
    """A class with its own ``__deepcopy__``."""

    def __deepcopy__(self, memo: dict[int, object]) -> OwnCopy:
        new = OwnCopy(self.in_features, self.out_features)
        new.copied = True
        memo[id(self)] = new
        return new


class OwnState(nn.Linear):
    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "bias_was_seen": True}


def test_references_among_modules_stay_within_the_copy() -> None:
    model = nn.Sequential(Cyclic(), nn.ReLU())
    new = copy_modules(model)
    assert new[0].child.parent_of[0] is new[0]
    assert new[0].shared is new[0].child.shared
    assert new[0].shared is not model[0].shared
    new[0].cache["x"] = torch.ones(1)
    new[0].steps.add_(1)
    assert not model[0].cache
    assert model[0].steps.item() == 0


def test_a_shared_module_is_copied_once() -> None:
    layer = nn.Linear(2, 2)
    new = copy_modules(nn.Sequential(layer, layer))
    assert new[0] is new[1]
    assert new[0] is not layer


@pytest.mark.parametrize("share", [True, False])
def test_parameters_are_shared_only_where_asked(share: bool) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    model[1].weight.requires_grad_(False)
    new = copy_modules(model, share_parameters=share)
    assert (new[0].weight is model[0].weight) == share
    assert new[1].running_mean is not model[1].running_mean
    assert not new[1].weight.requires_grad


def test_a_class_that_says_how_it_is_copied_is_asked() -> None:
    model = nn.Sequential(OwnCopy(2, 2), OwnState(2, 2))
    new = copy_modules(model)
    assert new[0].copied
    assert new[1].bias_was_seen


@pytest.mark.parametrize(
    "net", [nn.Conv2d(2, 2, 3), nn.LSTM(2, 3), nn.MultiheadAttention(4, 2), nn.Upsample(size=4)]
)
def test_the_state_is_that_of_deepcopy(net: nn.Module) -> None:
    ours, theirs = copy_modules(net, share_parameters=False), copy.deepcopy(net)
    assert vars(ours).keys() == vars(theirs).keys()
    for key in ("training", "_modules"):
        assert repr(vars(ours)[key]) == repr(vars(theirs)[key])
    for (name, one), (other, two) in zip(
        ours.state_dict().items(), theirs.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(one, two)


class LooksAtChild(nn.Module):
    """Like the wrapper that ``torch.compile`` returns."""

    def __init__(self, child: nn.Module) -> None:
        super().__init__()
        self.child = child

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__(state)
        self.child_was_training = self.child.training


def test_state_methods_may_look_at_children() -> None:
    layer = nn.Linear(2, 2)
    model = nn.Sequential(nn.Sequential(layer), nn.Sequential(LooksAtChild(layer))).eval()
    new = copy_modules(model)
    assert new[1][0].child_was_training is False
    assert new[1][0].child is new[0][0]


def test_hooks_of_the_copy_are_its_own() -> None:
    model = nn.Linear(2, 2)
    model.register_forward_hook(lambda *_: None)
    new = copy_modules(model)
    new.register_forward_hook(lambda *_: None)
    assert len(model._forward_hooks) == 1
    assert len(new._forward_hooks) == 2
