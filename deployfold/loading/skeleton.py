"""Architectures on the meta device, whose tensors have shapes and no numbers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .fit import Names
from .weights import size_of


def with_memory(skeleton: nn.Module, state: Mapping[str, Tensor]) -> nn.Module | None:
    """The skeleton with memory for its tensors, if ``state`` fills all of them.

    ``None`` if the skeleton has other tensors, which its constructor must compute, or shared ones.
    """
    names = Names.of(skeleton)
    if names.ties or names.non_persistent or not names.shapes.keys() <= state.keys():
        return None
    registered = {"_parameters", "_buffers", "_modules"}
    if any(
        torch.is_tensor(item)
        for module in skeleton.modules()
        for key, value in vars(module).items()
        if key not in registered
        for item in tree_leaves(value)
    ):
        return None
    module = skeleton.to_empty(device="cpu")
    for name, buffer in module.named_buffers():
        if name not in state:  # a counter of batches
            buffer.zero_()
    return module


def class_count(module: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """The state's number of classes, if only the first axes of some tensors differ."""
    own = module.state_dict()
    differing = [key for key in own.keys() & state.keys() if own[key].shape != size_of(state[key])]
    if not differing or any(
        not own[key].dim() or state[key].is_nested or own[key].shape[1:] != state[key].shape[1:]
        for key in differing
    ):
        return None
    return min(int(state[key].shape[0]) for key in differing)
