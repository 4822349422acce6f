"""Which classes a pickled module may use without being asked for.

A pickle names classes and functions ("globals") and has them called. torch's restricted unpickler
(``weights_only=True``) calls only those that are allowed, so everything depends on that list:

* modules of torch.nn, torchvision and timm: classes derived from ``nn.Module`` whose unpickling
  does nothing but set attributes;
* the few helper classes those modules hold, reviewed by hand below.

Functions are never allowed: the unpickler cannot tell a function that is stored from one that is to
be called. ``functools.partial`` is, since building one calls nothing; the unpickler itself checks
the global that goes into it.
"""

from __future__ import annotations

import functools
import importlib
import pickletools
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from deployfold.errors import LoadError

_PACKAGES = (
    "torch.nn.modules.",
    "torchvision.models.",
    "torchvision.ops.",
    "timm.layers.",
    "timm.models.",
    "deployfold.fold.",
)
_HELPERS = frozenset(
    {
        "functools.partial",
        "builtins.set",
        "timm.layers.format.Format",
        "torchvision.models.detection._utils.BalancedPositiveNegativeSampler",
        "torchvision.models.detection._utils.BoxCoder",
        "torchvision.models.detection._utils.Matcher",
        "torchvision.ops.boxes.box_iou",  # a pure function of two tensors, kept by Matcher's owner
    }
)
_LEGACY_PICKLES = 4  # magic number, protocol version, system information, object
_PARALLEL = ("torch.nn.parallel.data_parallel.", "torch.nn.parallel.distributed.")


def allowed_for(source: Path | IO[bytes], also: tuple[str, ...]) -> list[Any]:
    """The globals to allow for a checkpoint: those it uses, if every one of them is harmless.

    Args:
        source: the checkpoint; it is inspected, nothing of it runs.
        also: globals the user allows with ``--allow-global``.

    Raises:
        LoadError: it uses another one; the message names it.
    """
    wanted = _globals_of(source)
    chosen: list[Any] = []
    refused = []
    for name in wanted:
        item = _resolve(name) if name in also else _harmless(name)
        if item is None:
            refused.append(name)
        else:
            chosen.append((item, name))  # by the name that the checkpoint uses for it
    if refused:
        more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
        raise LoadError(
            f"The checkpoint wants to use {', '.join(refused[:3])}{more}, "
            "which could run code of its own.",
            hint=f"If you trust its author: --allow-global {refused[0]} (repeat it for several), "
            "or --trust to unpickle it in full. Safer: save model.state_dict() and give --arch.",
        )
    return chosen


def _globals_of(source: Path | IO[bytes]) -> list[str]:
    """The globals of a checkpoint that torch does not allow by itself."""
    if isinstance(source, Path) and not zipfile.is_zipfile(source):
        return _globals_of_bare_pickles(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = torch.serialization.get_unsafe_globals_in_checkpoint(source)
    except Exception as error:  # the inspector meets whatever bytes there are
        raise LoadError(
            f"The checkpoint cannot be inspected: {_first_line(error)}",
            hint="It may be damaged or truncated; compare its size with the original's.",
        ) from error
    return sorted(set(names))


def _globals_of_bare_pickles(path: Path) -> list[str]:
    """The same for torch's legacy format, a few pickles in a row, which torch does not inspect.

    Names of torch itself are left to the restricted unpickler, which allows its own and refuses
    the others.
    """
    names = set()
    with path.open("rb") as file:
        try:
            for _ in range(_LEGACY_PICKLES):
                for opcode, argument, _ in pickletools.genops(file):
                    if opcode.name in {"GLOBAL", "INST"}:
                        name = str(argument).replace(" ", ".", 1)
                        # Protocol 2 has the names of Python 2.
                        names.add(name.replace("__builtin__.", "builtins."))
        except (ValueError, OverflowError, MemoryError) as error:
            if not names:
                raise LoadError(f"The checkpoint is damaged: {_first_line(error)}") from error
    return sorted(
        name
        for name in names
        if name != "collections.OrderedDict"
        and (not name.startswith("torch.") or _harmless(name) is not None)
    )


def _harmless(name: str) -> Any | None:
    if name in _HELPERS:
        return _resolve(name)
    if not name.startswith((*_PACKAGES, *_PARALLEL)):
        return None
    # Only code of these packages is imported here, never what the checkpoint asks for.
    item = _resolve(name)
    if not isinstance(item, type) or not issubclass(item, nn.Module):
        return None
    return item if item.__reduce_ex__ is object.__reduce_ex__ else None


def _resolve(name: str) -> Any | None:
    """The object with that qualified name; ``None`` if its module does not have it."""
    if name == "functools.partial":
        return functools.partial
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError):
        return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
