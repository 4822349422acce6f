"""Loads a model from any source: a file of any format, or a model by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deployfold.config.flag_values import is_function, is_zoo_name
from deployfold.errors import LoadError, UsageError
from deployfold.util.files import sha256

from . import zoo
from .arch import Match, create, match
from .checks import as_module, check_state, checked, missing_parts, safe_name
from .choice import choose_fit, choose_module, unnamed, unused
from .fit import Names, fits
from .formats import Content, Permissions, detect, stem
from .model import LoadedModel
from .onnx_module import OnnxModule
from .placeholder import name_of
from .recognise import near, recognise
from .safe_globals import refusal
from .weights import Weights, find_modules, find_weights, is_average
from .wrappers import unwrap

_HUB = re.compile(r"[\w-]+/[\w-]+(?:\.\d+[\w.-]*)?")
_OVERHEAD = 1 << 16
"""Bytes of a file other than tensors: names, code, the archive's directory."""


def load_model(
    source: str,
    *,
    arch: str | None = None,
    arch_options: Mapping[str, Any] | None = None,
    weights: str | None = None,
    allow_globals: Sequence[str] = (),
    trust: bool = False,
    factories: bool = False,
) -> LoadedModel:
    """Load a model, in evaluation mode on the CPU.

    Args:
        source: a file or directory, ``torchvision:NAME`` / ``timm:NAME``, or with ``factories``
            ``package.module:factory``.
        arch: the architecture of a state dict. ``None`` guesses it from the file name, and
            confirms it by keys and shapes.
        arch_options: keyword arguments for the architecture's builder, such as ``num_classes``.
        weights: the key or prefix of the weights to take from a file with several sets, such as
            ``ema``.
        allow_globals: classes that a pickled module may use, besides those of known packages;
            ``package.*`` allows all modules of a package.
        trust: let the file run code.
        factories: accept ``package.module:factory`` as the source. Only sources that the user
            wrote may run the user's code, not those in a file.

    Raises:
        LoadError: the source cannot be read, or could run code that was not allowed.
        UsageError: ``source``, ``arch`` or ``weights`` names something unknown.
    """
    path = Path(source)
    try:
        exists = path.exists()
    except OSError as error:  # a folder without search permission, or too long a name
        raise LoadError(f"Cannot read {source}: {error.strerror}.") from error
    options = dict(arch_options or {})
    built = is_zoo_name(source) or (factories and is_function(source))
    if built and not exists:
        for flag, value in (("--arch", arch), ("--weights", weights)):
            if value is not None:
                raise UsageError(
                    f"{source} is an architecture itself, so {flag} has no effect.",
                    hint=f"Remove {flag}.",
                )
        make = _from_zoo if is_zoo_name(source) else _from_factory
        return _sized(checked(make(source, options)))
    if not exists:
        raise _missing(source)
    found = detect(path)
    content = found.read(path, Permissions(tuple(allow_globals), trust))
    files = content.files or (path,)
    loaded = LoadedModel(
        nn.Identity(), content.kind, safe_name(stem(path)), arch, source, sha256(*files),
        sum(file.stat().st_size for file in files), shapes=content.shapes, notes=content.notes,
    )  # fmt: skip
    if isinstance(content.module, OnnxModule):
        if arch is not None or weights is not None:
            flag = "--arch" if arch is not None else "--weights"
            raise UsageError(f"{source} is a whole model; {flag} goes with a checkpoint.")
        return checked(replace(loaded, module=content.module, weight_bytes=loaded.bytes))
    if content.module is not None:
        unread = "--weights goes with a checkpoint and was not used." if weights else ""
        notes = (*loaded.notes, *filter(None, [unread]))
        loaded = replace(loaded, module=content.module, notes=notes)
        loaded = _with_own_architecture(loaded, path)
    else:
        content = replace(content, options={**content.options, **options})
        loaded = _from_tree(loaded, path, content, weights)
        nameless = unnamed(content.tree, loaded.module) if weights is None else ()
        loaded = replace(loaded, notes=(*loaded.notes, *nameless))
    return _sized(checked(loaded))


def _sized(loaded: LoadedModel) -> LoadedModel:
    """The model with its ``weight_bytes``: the file's size, if the file has only the weights."""
    tensors = {id(one): one for one in (*loaded.module.parameters(), *loaded.module.buffers())}
    size = sum(one.numel() * one.element_size() for one in tensors.values())
    weights_only = loaded.bytes is not None and loaded.bytes <= 1.1 * size + _OVERHEAD
    return replace(loaded, weight_bytes=loaded.bytes if weights_only else size)


def _from_factory(source: str, options: dict[str, Any]) -> LoadedModel:
    """A model that the user's own code builds, with its weights."""
    module, notes = unwrap(create(source, **options))
    note = f"{source} with the weights that its code sets, under a fixed seed."
    name = safe_name(source.partition(":")[2])
    return LoadedModel(module, "factory", name, source, source, notes=(note, *notes))


def _from_zoo(source: str, options: dict[str, Any]) -> LoadedModel:
    cached = None if options else zoo.cached_weights(source)
    if cached is None:
        module = create(source, **options)
        note = f"{source} with a seeded random initialisation: no trained weights were loaded."
    else:
        state, attributes = cached
        module, _ = _filled(match(source, state))
        for attribute, value in attributes.items():
            setattr(module, attribute, value)
        note = f"{source} with torchvision's trained weights from the local cache."
    name = safe_name(source.partition(":")[2])
    return LoadedModel(module, "zoo", name, source, source, notes=(note,))


def _from_tree(loaded: LoadedModel, path: Path, content: Content, key: str | None) -> LoadedModel:
    """The model in the objects of a checkpoint: a module, or the weights of an architecture."""
    tree = content.tree
    modules = find_modules(tree)
    whole = [(keys, one) for keys, one in modules if not missing_parts(one)]
    sets = find_weights(tree)
    if whole and (key is None or any(key in ".".join(keys) for keys, _ in whole)):
        module, notes = choose_module(whole, key)
        with as_module():
            module, more = unwrap(module)
        averages = [one.label for one in sets if is_average(one.label)]
        known = {".".join(keys) for keys, _ in whole}
        notes += unused([label for label in averages if label not in known], key)
        loaded = replace(loaded, module=module, notes=(*loaded.notes, *more, *notes))
        return _with_own_architecture(loaded, path)
    arch = loaded.arch or content.arch
    if whole and arch is None:  # the checkpoint's module is the architecture of its weights
        module, notes = _refilled(unwrap(whole[0][1])[0], sets, key)
        return replace(loaded, module=module, notes=(*loaded.notes, *notes))
    if modules and arch is None:
        refused = missing_parts(choose_module(modules, key)[0])
        raise refusal(refused)
    if not sets:
        raise _without_weights(path, tree)
    return _from_weights(replace(loaded, arch=arch), path, sets, content, key)


def _from_weights(
    loaded: LoadedModel,
    path: Path,
    sets: Sequence[Weights],
    content: Content,
    key: str | None,
) -> LoadedModel:
    if loaded.arch is None:
        found = recognise(path, sets, key=key, named=_named_architecture(content.tree))
    else:
        found = match(loaded.arch, sets, key=key, options=content.options)
        own = content.own_loader if loaded.arch == content.arch else None
        if found is not None and found.problems and own is not None:
            module = own()
            if module is not None:
                note = f"The library of {loaded.arch} renamed the keys of {path} while loading."
                notes = (*loaded.notes, note)
                return replace(loaded, module=module.eval(), kind="state_dict", notes=notes)
    if found is None:
        likely = " or ".join(f"--arch {arch}" for arch in near(path.name))
        hint = f"Add {likely or '--arch torchvision:resnet50'}, or --arch package.module:factory."
        if path.is_file() and (path.parent / "config.json").is_file():
            hint = f"Give the folder {path.parent}: its config.json may name the architecture."
        raise LoadError(f"The architecture of the state dict {path} is not known.", hint=hint)
    module, notes = _filled(found)
    if loaded.arch is None:
        keys = f"its {len(found.state)} keys and their shapes"
        notes = (f"Recognised {found.arch} by the file name, and by {keys}.", *notes)
    notes = loaded.notes + notes
    return replace(loaded, module=module, kind="state_dict", arch=found.arch, notes=notes)


def _named_architecture(tree: Any) -> str:
    """The architecture that PyTorch's ImageNet example and its relatives write into checkpoints."""
    checkpoint = tree if isinstance(tree, dict) else {}
    names = [checkpoint.get(key) for key in ("arch", "architecture", "model_name")]
    return next((name for name in names if isinstance(name, str)), "")


def _refilled(
    module: nn.Module, sets: Sequence[Weights], key: str | None
) -> tuple[nn.Module, tuple[str, ...]]:
    """The module of a checkpoint, filled with other weights of the same checkpoint."""
    names = Names.of(module)
    found = [fit for one in sets for fit in fits(names, one, "the module") if not fit.problems]
    fit, notes = choose_fit(found, key)
    return _fill(module, fit.state), (*fit.notes, *notes)


def _filled(found: Match) -> tuple[nn.Module, tuple[str, ...]]:
    if found.problems:
        raise found.error()
    module, notes = unwrap(_fill(found.module, found.state))
    return module, found.notes + notes


def _fill(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Load a fitting ``state`` into ``module``.

    If all floating-point tensors of the state have one dtype, the module is converted to it.

    Raises:
        LoadError: see :func:`deployfold.loading.checks.check_state`.
    """
    check_state(state, {name for name, one in module.named_parameters() if one.is_floating_point()})
    dtypes = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    if len(dtypes) == 1:
        module = module.to(dtypes.pop())
    own = module.state_dict()
    with torch.no_grad():
        module.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)
    return module


def _with_own_architecture(loaded: LoadedModel, path: Path) -> LoadedModel:
    """A whole model, with its architecture if the file name shows it and the keys confirm it."""
    if loaded.arch is not None:
        note = "The file contains a whole model, so --arch was not used."
        return replace(loaded, arch=None, notes=(*loaded.notes, note))
    if loaded.kind == "module" and not type(loaded.module).__module__.startswith("torchvision."):
        return loaded
    found = recognise(path, loaded.module.state_dict())
    return loaded if found is None else replace(loaded, arch=found.arch)


def _missing(source: str) -> LoadError:
    if Path(source).is_symlink():
        target = Path(source).readlink()
        return LoadError(
            f"{source} is a link to {target}, which does not exist.",
            hint="Give the file itself, or link it again.",
        )
    # Looking for names imports torchvision and timm; no name has a slash or a suffix.
    known = [] if "/" in source or Path(source).suffix else near(source)
    if "://" in source or _HUB.fullmatch(source):
        hint = (
            "Nothing is downloaded. Download it first (hf download NAME --local-dir FOLDER for a "
            "model of Hugging Face's hub), and give the file or the folder."
        )
    elif any(arch.partition(":")[2] == source for arch in known):
        hint = f"To build the known model of that name, write {known[0]}."
    elif known:
        hint = f"Did you mean {' or '.join(known)}?"
    else:
        hint = "Give a checkpoint, or a model by name such as torchvision:resnet50."
    return LoadError(f"{source} does not exist.", hint=hint)


def _without_weights(path: Path, tree: Any) -> LoadError:
    if (name := name_of(tree)) is not None:
        return refusal([name])
    return LoadError(
        f"{path} contains {_describe(tree)}, but neither a module nor a state dict.",
        hint="Save the model with torch.save(model, path) or its model.state_dict().",
    )


def _describe(checkpoint: object) -> str:
    if isinstance(checkpoint, dict):
        if "param_groups" in checkpoint:
            return "the state of an optimizer"
        keys = ", ".join(map(repr, list(checkpoint)[:4]))
        return f"a dictionary with the keys {keys}" if keys else "an empty dictionary"
    return f"an object of type {type(checkpoint).__name__}"
