"""Removes the wrappers of training from modules: DataParallel, ``torch.compile``."""

from __future__ import annotations

from collections import Counter

from torch import nn


def unwrap(module: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """Remove the wrappers of training from a module and its submodules.

    Returns:
        The module, and notes on the removed wrappers.

    Raises:
        RecursionError: a wrapper contains itself.
    """
    module, wrappers = _inside(module)
    notes = [f"The {name} wrapper around the model was removed." for name in wrappers]
    parts: Counter[str] = Counter()
    for parent in module.modules():
        if vars(parent).pop("_compiled_call_impl", None) is not None:
            parts["torch.compile"] += 1
        for name, child in parent._modules.items():
            if isinstance(child, nn.Module):
                parent._modules[name], wrappers = _inside(child)
                parts.update(wrappers)
    if parts:
        counts = ", ".join(f"{count} {name}" for name, count in parts.items())
        notes.append(f"Wrappers inside the model were removed: {counts}.")
    return module, tuple(notes)


def _inside(module: nn.Module) -> tuple[nn.Module, list[str]]:
    """The module inside DataParallel or ``torch.compile``, and the names of the wrappers."""
    names: list[str] = []
    seen = {module}
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        inner = module.module if isinstance(module, wrappers) else module._modules.get("_orig_mod")
        if not isinstance(inner, nn.Module):
            return module, names
        names.append(type(module).__name__)
        module = inner
        if module in seen:
            raise RecursionError("it wraps itself")
        seen.add(module)
