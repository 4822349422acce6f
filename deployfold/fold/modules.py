"""Copying modules, and finding the tensors in them and in what they return."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from deployfold.errors import FoldError


def copy_modules(model: torch.nn.Module, *, share_parameters: bool = True) -> torch.nn.Module:
    """Deep-copy ``model``; with ``share_parameters`` the copy holds the same parameter tensors.

    Raises:
        FoldError: something in the model does not support ``copy.deepcopy``.
    """
    memo: dict[int, Any] = {}
    if share_parameters:
        memo = {id(parameter): parameter for parameter in model.parameters()}
    for module in model.modules():
        for attribute in vars(module).values():
            # torch refuses to deep-copy a tensor that is the result of a computation, such as the
            # cached weight of the old-style weight_norm.
            if torch.is_tensor(attribute) and not attribute.is_leaf:
                memo[id(attribute)] = attribute.detach().clone()
            # A module has a dozen empty dictionaries for hooks; copied one by one they take longer
            # than all the rest.
            elif type(attribute) in (dict, OrderedDict, set) and not attribute:
                memo[id(attribute)] = type(attribute)()
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise FoldError(
            f"The model cannot be copied: {type(error).__name__}: {error}",
            hint="Give deployfold a model that copy.deepcopy accepts; locks, files and "
            "generators kept as attributes are the usual cause.",
        ) from error


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Run with a fixed random state on every device, and put the caller's back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def named_tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter and buffer with its qualified name, shared ones once for each name."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def map_tensors(item: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """``item`` with every tensor in its sequences and mappings replaced by ``function`` of it."""
    if torch.is_tensor(item):
        return function(item)
    if isinstance(item, dict):
        return {key: map_tensors(element, function) for key, element in item.items()}
    if isinstance(item, (list, tuple)):
        elements = [map_tensors(element, function) for element in item]
        named = hasattr(item, "_fields")
        return type(item)(*elements) if named else type(item)(elements)
    return item


def tensors_in(item: Any, depth: int = 0) -> Iterator[torch.Tensor]:
    """Every tensor in a nested structure of sequences, mappings and objects with attributes."""
    if torch.is_tensor(item):
        yield item
    elif isinstance(item, (str, bytes, int, float, torch.nn.Module)) or item is None or depth > 8:
        return
    elif isinstance(item, dict):
        for element in item.values():
            yield from tensors_in(element, depth + 1)
    elif isinstance(item, (list, tuple, set, frozenset)):
        for element in item:
            yield from tensors_in(element, depth + 1)
    elif hasattr(item, "__dict__") and not isinstance(item, type):
        yield from tensors_in(vars(item), depth + 1)
