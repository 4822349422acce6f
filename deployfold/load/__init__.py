"""Every way a model comes in. Nothing here runs code from a checkpoint unasked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from deployfold.errors import LoadError, UsageError
from deployfold.files import sha256

from .arch import candidates, create, is_zoo_name, pretrained, recognise
from .inputs import make_inputs, resolve_inputs
from .kinds import detect
from .model import LoadedModel
from .pickled import load_pickle
from .program import load_program
from .state_dict import fill, find_module, find_state_dict
from .torchscript import load_torchscript

__all__ = ["LoadedModel", "load_model", "make_inputs", "resolve_inputs"]


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
    if is_zoo_name(source) and not Path(source).exists():
        module, note = pretrained(source)
        name = _safe(source.partition(":")[2])
        return _checked(LoadedModel(module, "zoo", name, source, source, notes=(note,)))
    path = Path(source)
    if not path.exists():
        raise _missing(source)
    kind = detect(path)
    stem = re.sub(r"(\.ts)?\.(pt2?|pth|ckpt|bin|safetensors|ts|jit)$", "", path.name)
    loaded = LoadedModel(
        nn.Identity(),
        "module",
        _safe(stem),
        arch,
        source,
        sha256(path),
        path.stat().st_size,
    )
    if kind == "torchscript":
        return replace(loaded, module=load_torchscript(path, trust=trust), kind="torchscript")
    if kind == "program":
        module, shapes = load_program(path, trust=trust)
        return replace(loaded, module=module, kind="program", shapes=shapes)
    if kind == "safetensors":
        return _checked(_from_state_dict(loaded, path, _read_safetensors(path)))
    checkpoint = load_pickle(path, allow_globals=tuple(allow_globals), trust=trust)
    whole = find_module(checkpoint)
    if whole is not None:
        return _checked(replace(loaded, module=whole))
    state = find_state_dict(checkpoint)
    if state is None:
        raise LoadError(
            f"{path} holds {_describe(checkpoint)}, and neither a module nor a state dict.",
            hint="Save the model with torch.save(model, path) or its model.state_dict().",
        )
    return _checked(_from_state_dict(loaded, path, state))


def _from_state_dict(
    loaded: LoadedModel, path: Path, state: dict[str, torch.Tensor]
) -> LoadedModel:
    if loaded.arch is not None:
        module = fill(create(loaded.arch), state, loaded.arch)
        return replace(loaded, module=module, kind="state_dict")
    found = recognise(path, state)
    if found is None:
        near = candidates(path.name)
        raise LoadError(
            f"The architecture of the state dict {path} is not known.",
            hint="Name it with --arch, for example --arch "
            + (near[0] if near else "torchvision:resnet50")
            + " or --arch package.module:factory.",
        )
    arch, module = found
    note = f"Recognised {arch} by the file name, and by its {len(state)} keys and their shapes."
    return replace(
        loaded, module=fill(module, state, arch), kind="state_dict", arch=arch, notes=(note,)
    )


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = find_state_dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise LoadError(f"{path} is damaged: {error}.") from error
    if state is None:
        raise LoadError(f"{path} holds no tensors.")
    return state


def _checked(loaded: LoadedModel) -> LoadedModel:
    """In evaluation mode, with numbers in every tensor; oddities become notes."""
    module = loaded.module.eval()
    notes = list(loaded.notes)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if torch.nn.parameter.is_lazy(tensor):
            raise LoadError(f"{name} is not initialised.", hint="Run the model once and save it.")
        if tensor.is_meta:
            raise LoadError(f"{name} holds no numbers: it is on the meta device.")
        if tensor.is_quantized:
            raise LoadError(
                f"{name} is quantised already.", hint="Give the float model; --int8 quantises it."
            )
        if tensor.is_complex():
            raise LoadError(f"{name} is complex, which neither ONNX nor TensorRT can hold.")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            notes.append(f"{name} holds NaN or infinite values.")
    floats = {p.dtype for p in module.parameters() if p.is_floating_point()} - {torch.float32}
    if floats:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in floats))
        notes.append(f"The model has {names} parameters; they are kept.")
    return replace(loaded, module=module, notes=tuple(notes))


def _missing(source: str) -> LoadError | UsageError:
    known = [name for name in candidates(source) if name.partition(":")[2] == source]
    hint = (
        f"For the model of that name without a file: {known[0]}."
        if known
        else "Give a checkpoint, or a model by name such as torchvision:resnet50."
    )
    return LoadError(f"{source} does not exist.", hint=hint)


def _describe(checkpoint: object) -> str:
    if isinstance(checkpoint, dict):
        keys = ", ".join(map(repr, list(checkpoint)[:4]))
        return f"a dictionary with the keys {keys}" if keys else "an empty dictionary"
    return f"a {type(checkpoint).__name__}"


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._") or "model"
