"""Hooks on modules that cannot be stored in a file."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.nn import Module

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@contextmanager
def without_local_hooks(module: Module) -> Iterator[int]:
    """Take the hooks that cannot be pickled away within the block; the number of them.

    Some libraries register functions defined in functions on the first forward, for example
    transformers to record hidden states. Such a function has no name that a file could hold.
    """
    taken: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
    count = 0
    for one in module.modules():
        for name in _HOOKS:
            hooks: dict[Any, Any] = getattr(one, name, None) or {}
            local = [key for key, hook in hooks.items() if not _has_name(hook)]
            if local:
                taken.append((hooks, dict(hooks)))
                count += len(local)
                for key in local:
                    del hooks[key]
    try:
        yield count
    finally:
        for hooks, before in taken:
            hooks.clear()
            hooks.update(before)


class _WithoutModules(pickle.Pickler):
    """Leaves out modules and tensors, which a hook may hold and the file has anyway."""

    def persistent_id(self, obj: Any) -> str | None:
        from torch import Tensor
        from torch.nn import Module

        return "" if isinstance(obj, (Module, Tensor)) else None


def _has_name(hook: Any) -> bool:
    try:
        _WithoutModules(io.BytesIO()).dump(hook)
    except Exception:  # pickling calls any code of the hook
        return False
    return True
