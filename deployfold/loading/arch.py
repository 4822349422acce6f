"""Architectures: made by name, and matched with a state dict."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deployfold.errors import LoadError, UsageError

from . import zoo
from .importing import import_named
from .state_dict import differences, unprefixed


@dataclass(frozen=True, eq=False)
class Match:
    """A state dict and the architecture it was compared with.

    Attributes:
        module: freshly made, seeded; ``state`` is not in it yet.
        state: the state dict under the keys that fit best.
        problems: what does not fit, as parts of a sentence; ``()`` for a match.
        notes: sentences on what was adapted.
    """

    arch: str
    module: nn.Module
    state: Mapping[str, Tensor]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def create(arch: str, **options: Any) -> nn.Module:
    """The architecture with seeded initial weights.

    Args:
        options: keyword arguments for the builder, such as ``num_classes``.

    Raises:
        UsageError: it is unknown, or its package is not installed.
        LoadError: building it fails.
    """
    package, _, name = arch.partition(":")
    if not package or not name:
        raise UsageError(
            f"{arch!r} is no architecture.",
            hint="Write it as torchvision:NAME, timm:NAME or package.module:factory.",
        )
    builder = zoo.builder(package, name) if package in zoo.ZOOS else _factory(package, name)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = builder(**options)
    except Exception as error:  # any code may run in a factory
        raise LoadError(f"Building {arch} failed: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise LoadError(f"{arch} returned {type(module).__name__}, which is no nn.Module.")
    return module


def match(arch: str, state: Mapping[str, Tensor]) -> Match:
    """Compare a state dict with an architecture, whose number of classes may be another.

    Raises:
        UsageError: the architecture is unknown, or its package is not installed.
        LoadError: building it fails.
    """
    best: tuple[list[str], Mapping[str, Tensor], nn.Module, dict[str, Any]] | None = None
    for options in zoo.variants(arch):
        attempts = [options]
        while attempts:
            options = attempts.pop()
            module = _skeleton(arch, options)
            for candidate in unprefixed(state):
                problems = differences(module, candidate, arch)
                if best is None or len(problems) < len(best[0]):
                    best = (problems, candidate, module, options)
                classes = _class_count(module, candidate)
                if zoo.is_zoo_name(arch) and classes and "num_classes" not in options:
                    attempts.append({**options, "num_classes": classes})
            if best is not None and not best[0]:
                break
    assert best is not None
    problems, candidate, module, options = best
    if not problems and any(tensor.is_meta for tensor in module.state_dict().values()):
        module = create(arch, **options)
    notes = []
    if candidate.keys() != state.keys():
        prefix = next(iter(state)).removesuffix(next(iter(candidate)))
        notes.append(f"The prefix {prefix!r} was taken off every key.")
    if not problems and "num_classes" in options:
        notes.append(f"{arch} was made with {options['num_classes']} classes, as the file has.")
    return Match(arch, module, candidate, tuple(problems), tuple(notes))


def recognise(path: Path, state: Mapping[str, Tensor]) -> Match | None:
    """The architecture that the file is named after and whose keys and shapes are the state's."""
    for arch in candidates(path.name):
        try:
            found = match(arch, state)
        except (LoadError, UsageError):
            continue
        if not found.problems:
            return found
    return None


def candidates(filename: str) -> list[str]:
    """Zoo names that occur in a file name, longest first, torchvision before timm."""
    words = re.sub(r"[^a-z0-9]+", "_", filename.lower())
    found: list[tuple[int, int, str]] = []
    for order, package in enumerate(zoo.ZOOS):
        for name in zoo.names(package):
            plain = re.sub(r"[^a-z0-9]+", "_", name.lower())
            stands_alone = re.search(rf"(?<![a-z0-9]){re.escape(plain)}(?![a-z0-9])", words)
            if stands_alone or words.replace("_", "").startswith(plain.replace("_", "")):
                found.append((-len(plain), order, f"{package}:{name}"))
    return [arch for _, _, arch in sorted(found)[:8]]


def near(filename: str) -> list[str]:
    """Up to three architectures with a name like that of a file, the likeliest first."""
    stem = filename.lower().partition(".")[0]
    close = [
        f"{package}:{name}"
        for package in zoo.ZOOS
        for name in difflib.get_close_matches(stem, zoo.names(package), n=2)
    ]
    return list(dict.fromkeys([*candidates(filename), *close]))[:3]


def _factory(package: str, name: str) -> Any:
    hint = "--arch package.module:factory is looked up as Python does; the working directory counts"
    factory = import_named(package, name, hint=f"{hint}.")
    if not callable(factory):
        raise UsageError(f"{package}:{name} cannot be called.")
    return factory


def _skeleton(arch: str, options: dict[str, Any]) -> nn.Module:
    """The architecture without numbers where it can be made so, since many may be tried."""
    if zoo.is_zoo_name(arch):
        try:
            with torch.device("meta"):
                return create(arch, **options)
        except LoadError:  # such as regnet, which computes with its initial values
            pass
    return create(arch, **options)


def _class_count(module: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """The state's number of classes, if nothing but the first axis of some tensors differs."""
    own = module.state_dict()
    differing = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if not differing or any(
        not own[key].dim() or own[key].shape[1:] != state[key].shape[1:] for key in differing
    ):
        return None
    return min(int(state[key].shape[0]) for key in differing)
