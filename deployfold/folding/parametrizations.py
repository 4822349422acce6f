"""Storing weights that a forward computes anew at each call: pruned and parametrized weights.

``torch.nn.utils.prune`` multiplies a weight by a mask, ``weight_norm`` and ``spectral_norm`` divide
it by a norm, and ``torch.nn.utils.parametrize`` runs any module on it. In evaluation mode all of
these compute the same weight at every call. Torch's own functions for removing a parametrization
change the original's tensors and classes that copies share, so this file does not use them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from deployfold.util.seeded import Seeded

from .modules import copy_modules
from .proof.compare import difference, run_model

_LEFT_OUT = ("orig", "mask", "g", "v", "u")
"""The name endings of the tensors from which a hook computes a weight."""


def baked(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[nn.Module, tuple[str, ...]]:
    """Copy ``model`` with its computed weights stored, and return the copy and notes for the user.

    Without computed weights, or where the copy computes another result, ``model`` itself returns.

    Args:
        model: the model, which stays unchanged. Modules in training mode keep computing.
        inputs: the arguments on which model and copy must give the same result, bit for bit.
    """
    if not any(True for _ in _computed(model)):
        return model, ()
    try:
        copied = copy_modules(model)
        # A weight that is drawn at random must not equal what the comparison draws.
        with torch.no_grad(), Seeded(1):
            kinds = Counter(_store(*item) for item in list(_computed(copied)))
        same = difference(run_model(model, inputs), run_model(copied, inputs)).absolute == 0
    except Exception:
        # The forward reads a removed tensor, or fails by itself, which folding reports later.
        same = False
    if not same:
        return model, (
            "Weights that the model computes at each call stay as they are: with the results "
            "stored, it does not give the same.",
        )
    what = ", ".join(f"{number} of {kind}" for kind, number in kinds.items())
    return copied, (
        f"Weights that the model computed at each call are stored: {what}. Its state dict has "
        "other keys now; --keep-parametrizations (keep_parametrizations=True) leaves them.",
    )


def _computed(model: nn.Module) -> Iterator[tuple[nn.Module, int | None]]:
    """Yield each module with a computed weight, and the key of the hook if a hook computes it."""
    for module in model.modules():
        if module.training:
            continue
        if parametrize.is_parametrized(module):
            yield module, None
        for key, hook in module._forward_pre_hooks.items():
            if isinstance(hook, (BasePruningMethod, WeightNorm, SpectralNorm)):
                yield module, key


def _store(module: nn.Module, key: int | None) -> str:
    """Store the weight that a module, or its hook, computes; return the kind of computation."""
    if key is None:
        return _store_parametrized(module)
    hook: Any = module._forward_pre_hooks.pop(key)
    name = hook._tensor_name if isinstance(hook, BasePruningMethod) else hook.name
    kind: str
    value: Tensor
    if isinstance(hook, BasePruningMethod):
        kind, value = "pruning", hook.apply_mask(module)  # type: ignore[no-untyped-call]
    elif isinstance(hook, WeightNorm):
        kind, value = "weight_norm", hook.compute_weight(module)
    else:
        kind, value = "spectral_norm", hook.compute_weight(module, do_power_iteration=False)
        _drop_state_hooks(module)
    trained = False
    for ending in _LEFT_OUT:
        old = getattr(module, f"{name}_{ending}", None)
        if isinstance(old, Tensor):
            trained = trained or old.requires_grad
            delattr(module, f"{name}_{ending}")
    _set(module, name, value, trained)
    return kind


def _store_parametrized(module: nn.Module) -> str:
    lists: Any = module.parametrizations
    values = {}
    kinds: dict[str, None] = {}
    for name, chain in lists.items():
        trained = any(parameter.requires_grad for parameter in chain.parameters(recurse=False))
        learned = any(True for _ in chain.parameters(recurse=False))
        values[name] = (getattr(module, name), trained, learned)
        kinds.update(dict.fromkeys(type(one).__name__.strip("_") for one in chain))
    del module.parametrizations
    _drop_state_hooks(module)
    module.__class__ = type(module).__bases__[0]  # torch has put a subclass of its own in front
    for name, (value, trained, learned) in values.items():
        if learned:
            _set(module, name, value, trained)
        else:
            module.register_buffer(name, value.detach().clone())
    return " and ".join(kinds)


def _drop_state_hooks(module: nn.Module) -> None:
    """Remove the hooks that torch added to save and load a computed weight."""
    for hooks in (module._state_dict_hooks, module._load_state_dict_pre_hooks):
        for key, hook in list(hooks.items()):
            inner = getattr(hook, "hook", hook)
            made_by = getattr(inner, "__module__", None) or type(inner).__module__
            if made_by.startswith("torch.nn.utils."):
                del hooks[key]


def _set(module: nn.Module, name: str, value: Tensor, trained: bool) -> None:
    vars(module).pop(name, None)
    # setattr, because recurrent modules then update their own list of weights as well.
    setattr(module, name, nn.Parameter(value.detach().clone(), requires_grad=trained))
