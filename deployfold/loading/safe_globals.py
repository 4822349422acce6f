"""Which classes a pickled module may use without being asked for.

A pickle names classes and functions ("globals") and has them called. torch's restricted unpickler
(``weights_only=True``) calls only those that are allowed, but with arguments of the pickle's
choosing, at once or, as a hook or in a ``functools.partial``, when the model runs. So everything
that is allowed must be harmless with any arguments:

* modules of torch.nn, torchvision and timm: classes derived from ``nn.Module`` and defined there,
  whose constructors set attributes and build layers. A test reads the source of all of them for
  calls that open, import, compile, trace or load. The ones that trace are excluded: tracing writes
  names of the traced model into source code and runs it;
* the few helper classes and pure functions those modules hold, reviewed by hand below.

Other functions are never allowed: the unpickler cannot tell a function that is stored from one that
is to be called. ``functools.partial`` is, since building one calls nothing; the unpickler itself
checks the global that goes into it.
"""

from __future__ import annotations

import importlib
import pickletools
import warnings
import zipfile
from enum import Enum
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from deployfold.errors import LoadError, first_few, first_line

from .importing import import_named

_PACKAGES = (
    "torch.nn.modules.",
    "torchvision.models.",
    "torchvision.ops.",
    "timm.layers.",
    "timm.models.",
    "deployfold.folding.",
    "torch.nn.parallel.data_parallel.",
)
_RENAMED = {"deployfold.fold.rewrite.Zero": "deployfold.folding.rewrite.rewrite.Zero"}
"""Classes of deployfold that folded models of older versions name by another path."""
_TRACERS = frozenset({"torchvision.models.feature_extraction", "timm.models._features_fx"})
_HELPERS = frozenset(
    {
        "functools.partial",
        "builtins.set",
        "timm.layers.activations.gelu",
        "timm.layers.format.Format",
        "torch._C._nn.gelu",
        "torch.nn.functional.relu",
        "torchvision.models.detection._utils.BalancedPositiveNegativeSampler",
        "torchvision.models.detection._utils.BoxCoder",
        "torchvision.models.detection._utils.BoxLinearCoder",
        "torchvision.models.detection._utils.Matcher",
        "torchvision.models.detection._utils.SSDMatcher",
        "torchvision.models.optical_flow.raft._pass_through_h",
        "torchvision.ops.boxes.box_iou",
    }
)
_TORCH_ALLOWS = frozenset(
    {
        "_codecs.encode",
        "builtins.bytearray",
        "builtins.complex",
        "collections.Counter",
        "collections.OrderedDict",
    }
)
_LEGACY_PICKLES = 4  # magic number, protocol version, system information, object


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
        item = _chosen_by_user(name) if name in also else harmless(name)
        if item is None:
            refused.append(name)
        else:
            chosen.append((item, name))  # by the name that the checkpoint uses for it
    if refused:
        raise LoadError(
            f"The checkpoint wants to use {first_few(refused)}, which could run code of its own.",
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
            f"The checkpoint cannot be inspected: {first_line(error)}",
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
                raise LoadError(f"The checkpoint is damaged: {first_line(error)}") from error
    return sorted(
        name
        for name in names
        if name not in _TORCH_ALLOWS
        and (not name.startswith("torch.") or harmless(name) is not None)
    )


def harmless(name: str) -> Any | None:
    """The class or function of that qualified name if it may be used unasked, else ``None``."""
    if name in _HELPERS:
        return _resolve(name)
    if name == "builtins.getattr":
        return _enum_member
    if name not in _RENAMED and not name.startswith(_PACKAGES):
        return None
    # Only code of these packages is imported here, never what the checkpoint asks for.
    item = _resolve(_RENAMED.get(name, name))
    if not isinstance(item, type) or not issubclass(item, nn.Module):
        return None
    # Where it is defined counts: these packages import classes of others, too.
    if item.__module__ in _TRACERS or not f"{item.__module__}.".startswith(_PACKAGES):
        return None
    return item if item.__reduce__ is object.__reduce__ else None


def _enum_member(kind: Any, name: str) -> Any:
    """What Python 3.11.0 to 3.11.3 pickle a member of an Enum as: ``getattr(Enum, "NAME")``.

    Stands in for getattr, which could reach anything, and gives members alone.
    """
    if isinstance(kind, type) and issubclass(kind, Enum) and name in kind.__members__:
        return kind.__members__[name]
    raise LoadError(
        f"The checkpoint wants the attribute {name!r} of something that is no Enum.",
        hint="It may be made to do harm. Save model.state_dict() and give --arch.",
    )


def _chosen_by_user(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return import_named(module, attribute, hint="--allow-global takes package.module.Class.")


def _resolve(name: str) -> Any | None:
    """The object with that qualified name; ``None`` if its module does not have it."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError):
        return None
