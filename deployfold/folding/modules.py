"""Copying modules, and finding the tensors in modules and in their results."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch.utils._pytree import tree_leaves

from deployfold.errors import FoldError

AnyModule = TypeVar("AnyModule", bound=torch.nn.Module)

_MAKING = ("new", "deepcopy", "reduce", "reduce_ex", "getnewargs", "getnewargs_ex", "slots")
_STATE = {"__getstate__", "__setstate__"}
_COPY_PROTOCOL = {f"__{name}__" for name in _MAKING} | _STATE
_IMMUTABLE = frozenset((bool, float, int, str, type(None)))


def copy_modules(model: AnyModule, *, share_parameters: bool = True) -> AnyModule:
    """Deep-copy ``model``; with ``share_parameters`` the copy holds the same parameter tensors.

    Raises:
        FoldError: something in the model does not support ``copy.deepcopy``.
    """
    memo: dict[int, Any] = {}
    if share_parameters:
        memo = {id(parameter): parameter for parameter in model.parameters()}
    for module in model.modules():
        # torch refuses to deep-copy the result of a computation, such as the cached weight of the
        # old-style weight_norm, or a dictionary of positions that an earlier forward has filled.
        for item in tree_leaves(list(vars(module).values())):
            if torch.is_tensor(item) and not item.is_leaf:
                memo[id(item)] = item.detach().clone()
    try:
        _copy_plain(model, memo)
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise FoldError(
            f"The model cannot be copied: {type(error).__name__}: {error}",
            hint="Give deployfold a model that copy.deepcopy accepts; locks, files and "
            "generators kept as attributes are the usual cause.",
        ) from error


def _copy_plain(model: torch.nn.Module, memo: dict[int, Any]) -> None:
    """Copy the modules that define no copying of their own, three times as fast as deepcopy does.

    All new objects enter the memo before the first is filled, because modules may refer to each
    other. Children are filled first, because a parent's own ``__setstate__`` may read them.
    """
    plain = [module for module in _children_first(model, set()) if _is_plain(type(module))]
    for module in plain:
        memo[id(module)] = object.__new__(type(module))
    for module in plain:
        get_state = getattr(module, "__getstate__", None)  # Python 3.10 and old torch have none
        state: dict[str, Any] = get_state() if get_state else vars(module)
        copied = {name: _copy_attribute(value, memo) for name, value in state.items()}
        memo[id(module)].__setstate__(copied)


def _children_first(
    module: torch.nn.Module, seen: set[torch.nn.Module]
) -> Iterator[torch.nn.Module]:
    seen.add(module)
    for child in module.children():
        if child not in seen:
            yield from _children_first(child, seen)
    yield module


def _is_plain(kind: type[torch.nn.Module]) -> bool:
    """Whether deepcopy would make a new object of this class and set a copied state."""
    for base in kind.__mro__[:-1]:
        own = _COPY_PROTOCOL & vars(base).keys()
        # torch's own state methods read only the module itself.
        if own and not (own <= _STATE and base.__module__.startswith("torch.nn.modules.")):
            return False
    return True


def _copy_attribute(value: Any, memo: dict[int, Any]) -> Any:
    if type(value) in _IMMUTABLE or (
        type(value) is tuple and all(type(item) in _IMMUTABLE for item in value)
    ):
        return value
    # Each module has a dozen empty ones for its hooks.
    if type(value) in (dict, OrderedDict, set) and not value:
        return memo.setdefault(id(value), type(value)())
    return copy.deepcopy(value, memo)


@contextmanager
def without_numbers(model: torch.nn.Module) -> Iterator[None]:
    """A block in which all tensors of ``model`` are on the meta device.

    The tensors are the parameters, the buffers and the tensor attributes of every module.

    Raises:
        Exception: two tensors share their storage, a tensor has no meta form, or a module does not
            let its tensors be replaced.
    """
    made: dict[int, torch.Tensor] = {}
    storages: set[int] = set()

    def shape_of(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            storage = tensor.untyped_storage()._cdata
            if storage in storages:  # a write to one would change the other
                raise ValueError("two tensors share their storage")
            storages.add(storage)
            meta = tensor.detach().to("meta")
            learned = isinstance(tensor, torch.nn.Parameter)
            made[id(tensor)] = torch.nn.Parameter(meta, tensor.requires_grad) if learned else meta
        return made[id(tensor)]

    saved: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (place, dict(place))
        for module in model.modules()
        for place in (module._parameters, module._buffers, vars(module))
    ]
    try:
        for place, before in saved:
            place.update(
                {name: shape_of(item) for name, item in before.items() if torch.is_tensor(item)}
            )
        yield
    finally:
        for place, before in saved:  # this drops anything that the forward has cached
            place.clear()
            place.update(before)


def named_tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every parameter and buffer with its qualified name; a shared one once for each name."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def map_tensors(item: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Apply ``function`` to every tensor in nested sequences and mappings; return a copy."""
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
    """Yield every tensor in nested sequences, mappings and objects with attributes."""
    if type(item) in _IMMUTABLE:  # most arguments; the other checks are slow
        return
    if torch.is_tensor(item):
        yield item
    elif isinstance(item, (str, bytes, int, float, torch.nn.Module)) or depth > 8:
        return
    elif isinstance(item, dict):
        for element in item.values():
            yield from tensors_in(element, depth + 1)
    elif isinstance(item, (list, tuple, set, frozenset)):
        for element in item:
            yield from tensors_in(element, depth + 1)
    elif hasattr(item, "__dict__") and not isinstance(item, type):
        yield from tensors_in(vars(item), depth + 1)
    elif is_dataclass(item) and not isinstance(item, type):  # with slots
        for one in fields(item):
            yield from tensors_in(getattr(item, one.name, None), depth + 1)
