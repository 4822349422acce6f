"""Finds the weights in a checkpoint by their structure: mappings of names to tensors.

Trainers store weights at any depth and under any key, next to optimizers, counters and
configurations. This module finds every mapping of names to tensors, also inside a module whose
class is not loaded. :mod:`deployfold.loading.fit` then decides by the architecture which mapping
has the model's weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .placeholder import Placeholder

_DEPTH = 8
"""Levels of nesting to search; trainers use up to four."""
_DEEPEST = 100
"""Levels of nested modules to search, because a module may contain itself."""
_LONGEST_LIST = 64
"""Longest list to search; longer lists are histories or optimizer groups."""
_AVERAGES = frozenset({"ema", "swa", "avg", "average", "averaged", "teacher", "shadow", "momentum"})
_AVERAGE = re.compile(r"(?:model|net|net_?g|params|weights)_?ema")
_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
"""Modules without a forward; classes derived from them may have one."""
_ARRAY_MAKERS = re.compile(r"numpy\.(?:_core|core)\.multiarray\._reconstruct")
_PLAIN_DTYPE = re.compile(r"[?]|b1|[biuf][1248]")


@dataclass(frozen=True, eq=False)
class Weights:
    """Named tensors of a checkpoint.

    Attributes:
        path: the keys that lead to the tensors in the file; ``()`` at its top level.
        tensors: the tensors by name.
        nested: whether the names are joined from several mappings; such weights are tried last.
    """

    path: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    nested: bool = False

    @property
    def label(self) -> str:
        """The keys joined by dots."""
        return ".".join(self.path)


def find_weights(tree: Any) -> list[Weights]:
    """Every set of named tensors in a checkpoint, the outermost first."""
    found = list(_search(tree, (), _Budget()))
    return sorted(found, key=lambda one: (one.nested, len(one.path)))


def find_modules(tree: Any) -> list[tuple[tuple[str, ...], Any]]:
    """Every module in a checkpoint with the keys that lead to it, the outermost first.

    A module whose class was not loaded is a :class:`Placeholder`. A list or dictionary of modules
    has no forward, so each of its items counts.
    """
    return _find(tree, lambda value: is_module(value) and type(value) not in _CONTAINERS)


def find_lists(tree: Any) -> list[tuple[tuple[str, ...], Any]]:
    """Every list of tensors alone, which have no names, with the keys that lead to it."""
    return _find(tree, _is_list_of_tensors)


def _is_list_of_tensors(value: Any) -> bool:
    listed = type(value) in (list, tuple) and len(value) > 0  # a placeholder has no length
    return listed and all(isinstance(one, Tensor) for one in value)


def _find(tree: Any, wanted: Callable[[Any], bool]) -> list[tuple[tuple[str, ...], Any]]:
    """The outermost values that are ``wanted``, with their keys, the shortest path first."""
    found: list[tuple[tuple[str, ...], Any]] = []
    pending: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    budget = _Budget()
    while pending and budget.spend():
        path, value = pending.pop(0)
        if wanted(value):
            found.append((path, value))
        elif len(path) < _DEPTH:
            # The arguments of a call can be the parts of a module, as those of a GraphModule are.
            inside = _children(value, arguments=False)
            pending += [((*path, key), item) for key, item in inside]
    return found


def is_module(value: Any) -> bool:
    """Whether ``value`` is a module, loaded or not."""
    if isinstance(value, Placeholder):
        return "_modules" in value.attributes() and "_parameters" in value.attributes()
    return isinstance(value, nn.Module)


def size_of(tensor: Tensor) -> torch.Size | None:
    """The shape of a tensor; ``None`` for a nested one, which has none."""
    return None if tensor.is_nested else tensor.shape


def is_average(label: str) -> bool:
    """Whether a key or prefix names weights that training averaged, such as ``params_ema``."""
    words = [word for word in re.split(r"[^a-z0-9]+", label.lower()) if word]
    return bool(_AVERAGES & set(words)) or any(map(_AVERAGE.fullmatch, words))


def module_tensors(module: Any) -> dict[str, Tensor]:
    """The state dict of a module, loaded or not, read without calling the module's code."""
    found: dict[str, Tensor] = {}
    pending: list[tuple[str, Any, int]] = [("", module, 0)]
    budget = _Budget()
    while pending and budget.spend():
        prefix, one, depth = pending.pop()
        attributes = one.attributes() if isinstance(one, Placeholder) else vars(one)
        computed = attributes.get("_non_persistent_buffers_set")
        skipped = computed if isinstance(computed, set) else set()
        for group in ("_parameters", "_buffers"):
            tensors = attributes.get(group)
            for name, value in tensors.items() if isinstance(tensors, dict) else ():
                if isinstance(value, Tensor) and name not in skipped:
                    found[f"{prefix}{name}"] = value
        children = attributes.get("_modules")
        below = list(children.items()) if isinstance(children, dict) and depth < _DEEPEST else []
        pending += [
            (f"{prefix}{name}.", child, depth + 1)
            for name, child in reversed(below)
            if is_module(child)
        ]
    return found


class _Budget:
    """A limit on the objects to visit, which ends the search in a pickle with cycles."""

    def __init__(self) -> None:
        self._left = 100_000

    def spend(self) -> bool:
        """Count one object; ``False`` once the limit is reached."""
        self._left -= 1
        return self._left > 0


def _search(value: Any, path: tuple[str, ...], budget: _Budget) -> Iterator[Weights]:
    if len(path) > _DEPTH or not budget.spend():
        return
    if is_module(value):
        tensors = module_tensors(value)
        if tensors:
            yield Weights(path, tensors)
        return
    if isinstance(value, Mapping) and "param_groups" in value:
        return  # the state of an optimizer
    own = _named_tensors(value)
    if own:
        yield Weights(path, own)
    below: dict[str, Tensor] = {}
    for key, child in _children(value):
        for one in _search(child, (*path, key), budget):
            yield one
            if one.path == (*path, key):
                below |= {f"{key}.{name}": tensor for name, tensor in one.tensors.items()}
    if below and isinstance(value, Mapping):
        yield Weights(path, own | below, nested=True)


def _children(value: Any, *, arguments: bool = True) -> Iterator[tuple[str, Any]]:
    """The containers in ``value``, with their keys."""
    pairs: list[tuple[Any, Any]] = []
    if isinstance(value, Placeholder):
        pairs += value.attributes().items()
        pairs += enumerate((*(value.arguments if arguments else ()), *value.items_given()))
    elif isinstance(value, Mapping):
        pairs += value.items()
    elif type(value) in _CONTAINERS:
        pairs += value._modules.items()
    elif isinstance(value, (list, tuple)) and len(value) <= _LONGEST_LIST:
        pairs += enumerate(value)
    for key, child in pairs:
        if isinstance(child, (Mapping, list, tuple, nn.Module)):
            yield str(key), child


def _named_tensors(value: Any) -> dict[str, Tensor]:
    """The tensors in ``value`` by name, if it is a mapping or a list of pairs."""
    if isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, (list, tuple)) and not isinstance(value, Placeholder):
        pairs = [one for one in value if isinstance(one, tuple) and len(one) == 2]
        if len(pairs) != len(value):
            return {}
    else:
        return {}
    named = ((key, _as_tensor(item)) for key, item in pairs if isinstance(key, str))
    return {key: tensor for key, tensor in named if tensor is not None}


def _as_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    array = value if isinstance(value, np.ndarray) else _array_of(value)
    if array is None or array.dtype.kind not in "biuf":
        return None
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))


def _array_of(value: Any) -> np.ndarray[Any, Any] | None:
    """The values of a pickled numpy array that was not loaded, read without numpy's unpickler.

    The state of such a pickle is (version, shape, dtype, whether in Fortran order, bytes).
    """
    if not isinstance(value, Placeholder) or not _ARRAY_MAKERS.fullmatch(value.name):
        return None
    try:
        _, shape, dtype, fortran, content = value.state
        code, order = dtype.arguments[0], dtype.state[1]
    except (TypeError, ValueError, IndexError, AttributeError):
        return None
    if (
        not isinstance(code, str)
        or not _PLAIN_DTYPE.fullmatch(code)
        or order not in ("<", ">", "|")
    ):
        return None
    if not isinstance(content, bytes) or not isinstance(shape, tuple):
        return None
    try:
        flat = np.frombuffer(content, np.dtype(order.replace("|", "") + code))
        return flat.reshape(shape, order="F" if fortran else "C")
    except (TypeError, ValueError):
        return None
