"""Decides which classes a pickled module may use without the user's permission.

A pickle names classes and functions ("globals") and makes the unpickler call them. torch's
restricted unpickler (``weights_only=True``) calls only allowed globals, but with arguments that the
pickle chooses. A hook or a ``functools.partial`` is called later, when the model runs. Therefore,
every allowed global must be harmless with any arguments:

* Modules of torch.nn, torchvision, timm and torch.ao's training: classes derived from ``nn.Module``
  and defined there, whose constructors set attributes and build layers. A test reads the source of
  all of them for calls that open, import, compile, trace or load. The modules that trace are
  excluded: tracing writes names of the traced model into source code and runs it.
* The few helper classes and pure functions that those modules use, reviewed by hand and listed
  below.

No other function is allowed: the unpickler cannot distinguish a stored function from a called one.
``functools.partial`` is allowed, because building one calls nothing, and the unpickler checks the
global inside it. Everything else is replaced by a stand-in, see
:mod:`deployfold.loading.placeholder`.
"""

from __future__ import annotations

import importlib
import pickletools
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from deployfold.errors import LoadError, first_few, first_line
from deployfold.util.quiet import without_warnings

from .importing import import_named
from .placeholder import Placeholder, name_of

_PACKAGES = (
    "torch.nn.modules.",
    "torchvision.models.",
    "torchvision.ops.",
    "timm.layers.",
    "timm.models.",
    "deployfold.folding.",
    "deployfold.loading.arguments.",
    "torch.nn.parallel.data_parallel.",
    "torch.ao.nn.intrinsic.",
    "torch.ao.nn.qat.",
    "torch.ao.nn.quantized.modules.functional_modules.",
    "torch.ao.quantization.fake_quantize.",
    "torch.ao.quantization.stubs.",
)
_RENAMED = {"deployfold.fold.rewrite.Zero": "deployfold.folding.rewrite.rewrite.Zero"}
"""Classes of deployfold under the paths that older versions wrote into folded models."""
_TRACERS = frozenset({"torchvision.models.feature_extraction", "timm.models._features_fx"})
_HELPERS = frozenset(
    {
        "deployfold.loading.placeholder.Placeholder",
        "functools.partial",
        "builtins.set",
        "timm.layers.activations.gelu",
        "timm.layers.format.Format",
        "torch._C._nn.gelu",
        "torch.ao.quantization.observer.FixedQParamsObserver",
        "torch.ao.quantization.observer.MinMaxObserver",
        "torch.ao.quantization.observer.MovingAverageMinMaxObserver",
        "torch.ao.quantization.observer.MovingAveragePerChannelMinMaxObserver",
        "torch.ao.quantization.observer.PerChannelMinMaxObserver",
        "torch.ao.quantization.quantize._observer_forward_hook",
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
_BLOCKED = frozenset({"os", "posix", "nt", "sys"})
"""Modules that torch's restricted unpickler refuses even if they are allowed."""
PROTOCOL = "torch's restricted unpickler reads pickle protocol 2 only."
LEGACY_PICKLES = 4
"""The pickles of torch's format of before 2020: magic number, protocol, system, object."""


@dataclass(frozen=True)
class Globals:
    """The globals of a checkpoint that torch does not allow by default.

    Attributes:
        allowed: the classes and functions to allow, each with the name that the checkpoint uses.
        refused: the names of the others.
    """

    allowed: tuple[tuple[Any, str], ...]
    refused: tuple[str, ...]


def inspect_globals(source: Path | IO[bytes], also: Sequence[str]) -> Globals:
    """Sort the globals of a checkpoint into allowed and refused ones.

    Args:
        source: the checkpoint, which is inspected without running any of it.
        also: globals that the user allows: ``package.module.Class``, or ``package.*`` for every
            ``nn.Module`` of a package.

    Raises:
        LoadError: the checkpoint is damaged, or uses a module that torch blocks.
        UsageError: a name of ``also`` cannot be imported.
    """
    allowed: list[tuple[Any, str]] = []
    refused = []
    for name in _globals_of(source):
        item = _chosen_by_user(name, also) or harmless(name)
        if item is None:
            refused.append(name)
        else:
            allowed.append((item, name))
    blocked = [name for name in refused if name.rpartition(".")[0] in _BLOCKED]
    if blocked:
        raise refusal(blocked)
    return Globals(tuple(allowed), tuple(refused))


def allowed_for(source: Path | IO[bytes], also: Sequence[str]) -> list[tuple[Any, str]]:
    """The globals to allow for a checkpoint, if every one of them is harmless.

    Raises:
        LoadError: the checkpoint uses another global; the message names it.
    """
    found = inspect_globals(source, also)
    if found.refused:
        raise refusal(found.refused)
    return list(found.allowed)


def refusal(names: Sequence[str]) -> LoadError:
    """The error for a checkpoint that needs these globals; its hint has every flag."""
    names = [name if name.isprintable() else ascii(name) for name in names]
    flags = " ".join(f"--allow-global {name}" for name in names)
    packages = dict.fromkeys(name.partition(".")[0] for name in names if "." in name)
    several = [
        package
        for package in packages
        if sum(name.startswith(f"{package}.") for name in names) > 1 and package != "builtins"
    ]
    if several:
        prefixes = " ".join(f"--allow-global '{package}.*'" for package in several)
        flags = f"{prefixes} for all modules of the package, or {flags}"
    return LoadError(
        f"The checkpoint wants to use {first_few(names)}, which could run code of its own.",
        hint=f"If you trust its author, add {flags}, or --trust to unpickle it in full. "
        "Safer: save model.state_dict() and give --arch.",
    )


def _globals_of(source: Path | IO[bytes]) -> list[str]:
    """The globals of a checkpoint that torch does not allow by default."""
    if isinstance(source, Path) and not zipfile.is_zipfile(source):
        return _globals_of_bare_pickles(source)
    try:
        with without_warnings():
            names = torch.serialization.get_unsafe_globals_in_checkpoint(source)
    except Exception as error:  # damaged bytes can raise any exception
        if "Unsupported operand" in str(error):
            raise LoadError(
                f"The checkpoint cannot be inspected: {PROTOCOL}",
                hint="Save it again without pickle_protocol. If you trust its author, add --trust.",
            ) from error
        raise LoadError(
            f"The checkpoint cannot be inspected: {first_line(error)}",
            hint="The file may be damaged or truncated; compare its size with the original's.",
        ) from error
    return sorted(set(names))


def _globals_of_bare_pickles(path: Path) -> list[str]:
    """The globals of a file in torch's legacy format, a series of pickles.

    torch has no function that inspects this format. Names of torch itself are not listed: the
    restricted unpickler allows those it knows and refuses the others.
    """
    names = set()
    with path.open("rb") as file:
        try:
            for _ in range(LEGACY_PICKLES):
                for opcode, argument, _ in pickletools.genops(file):
                    if opcode.name in {"GLOBAL", "INST"}:
                        name = str(argument).replace(" ", ".", 1)
                        # Pickle protocol 2 uses the names of Python 2.
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
    """The class or function with this name if it is allowed without permission, else ``None``."""
    if name in _HELPERS:
        return _resolve(name)
    if name == "builtins.getattr":
        return _enum_member
    if name not in _RENAMED and not name.startswith(_PACKAGES):
        return None
    # This imports code of the listed packages only, never a module that the checkpoint chooses.
    item = _resolve(_RENAMED.get(name, name))
    if not isinstance(item, type) or not issubclass(item, nn.Module):
        return None
    # Check where the class is defined: these packages also import classes of other packages.
    if item.__module__ in _TRACERS or not f"{item.__module__}.".startswith(_PACKAGES):
        return None
    return item if item.__reduce__ is object.__reduce__ else None


def _enum_member(kind: Any, name: str) -> Any:
    """A member of an Enum, which Python 3.11.0 to 3.11.3 pickle as ``getattr(Enum, "NAME")``.

    This function replaces ``getattr``, which could reach any attribute, and returns members only.
    """
    if isinstance(kind, type) and issubclass(kind, Enum) and name in kind.__members__:
        return kind.__members__[name]
    if (unloaded := name_of(kind)) is not None:
        return Placeholder(f"{unloaded}.{name}")
    raise LoadError(
        f"The checkpoint wants the attribute {name!r} of an object that is not an Enum.",
        hint="The file may be malicious. Safer: save model.state_dict() and give --arch.",
    )


def _chosen_by_user(name: str, also: Sequence[str]) -> Any | None:
    """The global with this name if the user allows its name or its package, else ``None``."""
    hint = "--allow-global takes package.module.Class, or 'package.*' for all its modules."
    module, _, attribute = name.rpartition(".")
    if name in also:
        return import_named(module, attribute, hint=hint)
    packages = [one[:-1] for one in also if one.endswith(".*")]
    package = next((one for one in packages if name.startswith(one)), None)
    if package is None:
        return None
    import_named(module, "__name__", hint=hint)
    item = _resolve(name)
    if not isinstance(item, type) or not issubclass(item, nn.Module):
        return None
    return item if f"{item.__module__}.".startswith(package) else None


def _resolve(name: str) -> Any | None:
    """The object with that qualified name; ``None`` if its module does not have it."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError):
        return None
