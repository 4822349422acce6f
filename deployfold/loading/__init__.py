"""Every way a model comes in. Nothing here runs code from a checkpoint unasked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from deployfold.errors import LoadError, UsageError
from deployfold.util.files import sha256

from . import zoo
from .arch import Match, create, match, near, recognise
from .checks import as_module, checked
from .inputs import make_inputs, resolve_inputs
from .kinds import detect
from .model import LoadedModel
from .pickled import load_pickle
from .program import load_program
from .single import in_single_precision
from .state_dict import fill, find_module, find_state_dict, summary, unwrap
from .torchscript import load_torchscript

__all__ = ["LoadedModel", "in_single_precision", "load_model", "make_inputs", "resolve_inputs"]


def load_model(
    source: str,
    *,
    arch: str | None = None,
    allow_globals: Sequence[str] = (),
    trust: bool = False,
) -> LoadedModel:
    """Load a model, in evaluation mode on the CPU.

    Args:
        source: a file, or ``torchvision:NAME`` / ``timm:NAME``.
        arch: the architecture of a state dict; recognised from the file name, and confirmed by
            keys and shapes, if ``None``.
        allow_globals: classes that a pickled module may use beside those of known packages.
        trust: let the file run code.

    Raises:
        LoadError: it cannot be read, or could run code that was not allowed.
        UsageError: ``source`` or ``arch`` names something unknown.
    """
    path = Path(source)
    try:
        there = path.exists()
    except OSError as error:  # below a directory that may not be searched, or too long a name
        raise LoadError(f"Cannot read {source}: {error.strerror}.") from error
    if zoo.is_zoo_name(source) and not there:
        return checked(_from_zoo(source, arch))
    if not there:
        raise _missing(source)
    kind = detect(path)
    stem = re.sub(r"(\.ts)?\.(pt2?|pth|ckpt|bin|safetensors|ts|jit)$", "", path.name)
    loaded = LoadedModel(
        nn.Identity(), "module", _safe(stem), arch, source, sha256(path), path.stat().st_size
    )
    if kind == "safetensors":
        return checked(_from_state_dict(loaded, path, _read_safetensors(path)))
    if kind == "pickle":
        checkpoint = load_pickle(path, allow_globals=tuple(allow_globals), trust=trust)
        return checked(_from_checkpoint(loaded, path, checkpoint))
    if kind == "torchscript":
        loaded = replace(loaded, module=load_torchscript(path, trust=trust), kind=kind)
    else:
        module, shapes = load_program(path, trust=trust)
        loaded = replace(loaded, module=module, kind=kind, shapes=shapes)
    return checked(_with_own_architecture(loaded, path))


def _from_zoo(source: str, arch: str | None) -> LoadedModel:
    if arch is not None:
        raise UsageError(f"{source} is an architecture itself; --arch goes with a file.")
    cached = zoo.cached_weights(source)
    if cached is None:
        module = create(source)
        note = f"{source} with a seeded random initialisation: no trained weights were loaded."
    else:
        weights, attributes = cached
        module, _ = _filled(match(source, weights))
        for attribute, value in attributes.items():
            setattr(module, attribute, value)
        note = f"{source} with torchvision's trained weights from the local cache."
    name = _safe(source.partition(":")[2])
    return LoadedModel(module, "zoo", name, source, source, notes=(note,))


def _from_checkpoint(loaded: LoadedModel, path: Path, checkpoint: object) -> LoadedModel:
    with as_module():
        whole = find_module(checkpoint)
        if whole is not None:
            module, notes = whole
            return _with_own_architecture(replace(loaded, module=module, notes=notes), path)
    found = find_state_dict(checkpoint)
    if found is None:
        raise LoadError(
            f"{path} holds {_describe(checkpoint)}, and neither a module nor a state dict.",
            hint="Save the model with torch.save(model, path) or its model.state_dict().",
        )
    return _from_state_dict(replace(loaded, notes=found[1]), path, found[0])


def _from_state_dict(loaded: LoadedModel, path: Path, state: dict[str, Tensor]) -> LoadedModel:
    found = recognise(path, state) if loaded.arch is None else match(loaded.arch, state)
    if found is None:
        likely = " or ".join(f"--arch {arch}" for arch in near(path.name))
        raise LoadError(
            f"The architecture of the state dict {path} is not known.",
            hint=f"Name it: {likely or '--arch torchvision:resnet50'}, "
            "or --arch package.module:factory.",
        )
    module, notes = _filled(found)
    if loaded.arch is None:
        keys = f"its {len(state)} keys and their shapes"
        notes = (f"Recognised {found.arch} by the file name, and by {keys}.", *notes)
    notes = loaded.notes + notes
    return replace(loaded, module=module, kind="state_dict", arch=found.arch, notes=notes)


def _filled(found: Match) -> tuple[nn.Module, tuple[str, ...]]:
    if found.problems:
        raise LoadError(
            f"The checkpoint does not fit {found.arch}: {summary(found.problems)}.",
            hint="Name the architecture it was trained with, for example "
            "--arch torchvision:resnet50 or --arch package.module:factory.",
        )
    module, notes = unwrap(fill(found.module, found.state))
    return module, found.notes + notes


def _with_own_architecture(loaded: LoadedModel, path: Path) -> LoadedModel:
    """A whole model, with the architecture that it shows to be where its file name says so."""
    if loaded.arch is not None:
        note = "The file holds a whole model, so --arch was not used."
        return replace(loaded, arch=None, notes=(*loaded.notes, note))
    if loaded.kind == "module" and not type(loaded.module).__module__.startswith("torchvision."):
        return loaded
    found = recognise(path, loaded.module.state_dict())
    return loaded if found is None else replace(loaded, arch=found.arch)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, KeyError) as error:
        raise LoadError(f"{path} is damaged: {error}.") from error
    if not state:
        raise LoadError(f"{path} holds no tensors.")
    return state


def _missing(source: str) -> LoadError:
    known = [arch for arch in near(source) if "/" not in source]
    if any(arch.partition(":")[2] == source for arch in known):
        hint = f"For the model of that name without a file: {known[0]}."
    elif known and not Path(source).suffix:
        hint = f"Did you mean {' or '.join(known)}?"
    else:
        hint = "Give a checkpoint, or a model by name such as torchvision:resnet50."
    return LoadError(f"{source} does not exist.", hint=hint)


def _describe(checkpoint: object) -> str:
    if isinstance(checkpoint, dict):
        if "param_groups" in checkpoint:
            return "the state of an optimizer"
        keys = ", ".join(map(repr, list(checkpoint)[:4]))
        return f"a dictionary with the keys {keys}" if keys else "an empty dictionary"
    return f"a {type(checkpoint).__name__}"


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:100].strip("._") or "model"
