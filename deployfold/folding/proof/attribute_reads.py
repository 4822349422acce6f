"""Finding the folded modules whose attributes the model's own code reads.

Code may read a BatchNorm's statistics or ask for its class. No trace shows such an access, and
after folding the forward fails or computes something else. The folded model therefore runs once
with watching modules in the places of the folded ones, which record every attribute that is read.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .compare import run_model

_LIBRARY = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
"""Folders whose code reads every module; accesses from there do not count."""


def attributes_read(
    original: nn.Module, folded: nn.Module, names: Iterable[str], inputs: Sequence[tuple[Any, ...]]
) -> dict[str, str]:
    """Find the folded modules that the forward's code reads, each with the attribute read.

    Args:
        folded: a folded copy, which the function changes; do not use it again.
    """
    found: dict[str, str] = {}
    modules, originals = dict(folded.named_modules()), dict(original.named_modules())
    for name in names:
        if name in modules and name in originals:
            _watch(modules[name], originals[name], name, found)
    for item in inputs:
        try:
            run_model(folded, item)
        except Exception:  # the failure is expected; earlier reads are recorded
            continue
    return found


def _watch(module: nn.Module, original: nn.Module, name: str, found: dict[str, str]) -> None:
    """Record in ``found`` the attribute of ``module`` that foreign code reads first."""
    kind = type(module)

    def note(attribute: str, module: nn.Module) -> None:
        frame = sys._getframe(2)
        code = frame.f_code
        # The forwards of torch's own modules read other modules as the user's code does.
        foreign = code.co_name == "forward" or not code.co_filename.startswith(_LIBRARY)
        if foreign and frame.f_locals.get("self") is not module:
            found.setdefault(name, attribute)

    def get(self: nn.Module, attribute: str) -> Any:
        note(attribute, self)
        return kind.__getattribute__(self, attribute)

    def get_missing(self: nn.Module, attribute: str) -> Any:
        try:
            return kind.__getattr__(self, attribute)
        except AttributeError:
            return getattr(original, attribute)

    watched = type(kind.__name__, (kind,), {"__getattribute__": get, "__getattr__": get_missing})
    module.__class__ = watched
