"""Running compiled models eagerly: folding must see every operator that ``torch.compile`` hides."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import nn

from deployfold.util.shared import SharedChange

_TORCH = str(Path(torch.__file__).parent)
_MARK = "_torchdynamo_orig_callable"
"""The attribute that ``torch.compile`` sets on every function that it returns."""


def uncompiled(model: nn.Module) -> AbstractContextManager[None]:
    """Return a block that runs without the compiler if ``model`` uses anything compiled.

    Torch has one such switch for the whole process. Compiled code of other threads computes the
    same results meanwhile, but slower. A model without compiled code leaves the switch alone.
    """
    if "torch._dynamo" not in sys.modules:  # nothing is compiled yet, and the import takes a second
        return nullcontext()
    return _EAGER.made() if any(_compiled_in(model)) else nullcontext()


def _force_eager() -> Callable[[], object]:
    stance = torch.compiler.set_stance("force_eager")
    stance.__enter__()
    return lambda: stance.__exit__(None, None, None)


_EAGER = SharedChange(_force_eager)


def _compiled_in(model: nn.Module) -> Iterator[bool]:
    """Yield, for each module and each function that its code may call, whether it is compiled."""
    wrapper = getattr(sys.modules.get("torch._dynamo.eval_frame"), "OptimizedModule", ())
    seen: set[int] = set()
    kinds: set[type] = set()
    for module in model.modules():
        yield isinstance(module, wrapper) or module._compiled_call_impl is not None
        kinds.update(type(module).__mro__)
        for item in vars(module).values():
            yield from _compiled_from(item, seen)
    for kind in kinds:
        for item in () if kind.__module__.startswith("torch.") else vars(kind).values():
            yield from _compiled_from(item, seen)


def _compiled_from(item: Any, seen: set[int]) -> Iterator[bool]:
    """Yield, for ``item`` and each user function that its code names, whether it is compiled."""
    waiting = [item]
    while waiting:
        item = waiting.pop()
        item = getattr(item, "__func__", item)  # the function of a method
        if not isinstance(item, FunctionType) or id(item) in seen:
            continue
        seen.add(id(item))
        yield hasattr(item, _MARK)
        if item.__code__.co_filename.startswith(_TORCH):
            continue
        names = item.__code__.co_names
        waiting += [item.__globals__[name] for name in names if name in item.__globals__]
        for cell in item.__closure__ or ():
            try:
                waiting.append(cell.cell_contents)
            except ValueError:  # the cell is still empty
                continue
