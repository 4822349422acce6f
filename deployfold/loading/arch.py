"""Builds architectures by name and fits the weights of a checkpoint to them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deployfold.config.flag_values import ZOOS, is_function, is_zoo_name
from deployfold.errors import DeployfoldError, LoadError, UsageError, first_few, one_line
from deployfold.util.seeded import SeededConstruction

from . import transformers_zoo, zoo
from .choice import choose_fit
from .fit import Fit, Names, fits, summary
from .importing import import_named
from .quantised_training import sized_grids
from .skeleton import class_count, with_memory
from .weights import Weights


@dataclass(frozen=True, eq=False)
class Match:
    """An architecture, and the weights of a checkpoint that fit it best.

    Attributes:
        module: built with seeded initial values; the checkpoint's weights are not loaded yet.
        fit: the weights under the architecture's names, or the nearest attempt.
        notes: sentences on what was adapted.
    """

    arch: str
    module: nn.Module
    fit: Fit
    notes: tuple[str, ...]

    @property
    def state(self) -> Mapping[str, Tensor]:
        """The weights under the architecture's names."""
        return self.fit.state

    @property
    def problems(self) -> tuple[str, ...]:
        """The differences, as parts of a sentence; ``()`` for a match."""
        return self.fit.problems

    def error(self) -> LoadError:
        """The error for weights that do not fit."""
        own, fit = list(Names.of(self.module).shapes), self.fit
        found = len(own) - len(fit.missing) - len(fit.shapes)
        where = f" under {fit.label!r}" if fit.label else ""
        hint = "The architecture needs the --arch-arg and the package version of the training."
        if not fit.missing and not fit.shapes:
            hint += " If the model needs no such tensors, delete them from the file."
        if fit.missing and (fit.unexpected or not found):
            names = first_few(list(fit.weights.tensors))
            hint = f"Names in the file: {names}. Names in {self.arch}: {first_few(own)}. {hint}"
        if any(".lora_A." in f".{key}" for key in fit.weights.tensors):
            hint = (
                "The file has LoRA adapters. Merge them into the model first "
                "(merge_and_unload() of peft), and save its state_dict()."
            )
        return LoadError(
            f"The checkpoint does not fit {self.arch}: the file has {found} of its {len(own)} "
            f"tensors{where}; {summary(fit)}.",
            hint=hint,
        )


def create(arch: str, **options: Any) -> nn.Module:
    """Build an architecture with seeded initial weights.

    Args:
        options: keyword arguments for the builder, such as ``num_classes``.

    Raises:
        UsageError: the name is unknown, or its package is not installed.
        LoadError: building fails.
    """
    package, _, name = arch.partition(":")
    if not name or not (package in (*ZOOS, transformers_zoo.PACKAGE) or is_function(arch)):
        form = "Write it as torchvision:NAME, timm:NAME or package.module:factory."
        raise UsageError(
            f"{arch!r} does not name an architecture.", hint=_module_hint(package, name) or form
        )
    if package in ZOOS:
        builder = zoo.builder(package, name)
    elif package == transformers_zoo.PACKAGE:
        builder = transformers_zoo.builder(name)
    else:
        builder = _factory(package, name)
    try:
        with SeededConstruction():
            module = builder(**options)
    except DeployfoldError:
        raise
    except (Exception, SystemExit) as error:  # any code may run in a factory
        raise LoadError(
            f"Building {arch} failed: {type(error).__name__}: {one_line(error)}.",
            hint=_arguments_of(builder),
        ) from error
    if not isinstance(module, nn.Module):
        raise LoadError(
            f"{arch} returned {type(module).__name__} and not an nn.Module.",
            hint="Give a function that returns the model alone, or the model's class.",
        )
    return module


def _arguments_of(builder: Any) -> str:
    """A hint with the arguments that a builder takes."""
    try:
        parameters = inspect.signature(builder).parameters.values()
    except (TypeError, ValueError):  # written in C, for example
        return "Give its arguments with --arch-arg NAME=VALUE."
    names = [str(one.replace(annotation=one.empty)) for one in parameters]
    if not names:
        return "Call it in Python by itself first."
    return f"It takes {first_few(names, 12)}: give an argument with --arch-arg NAME=VALUE."


def match(
    arch: str,
    weights: Mapping[str, Tensor] | Sequence[Weights],
    *,
    key: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Match:
    """Fit the weights of a checkpoint to an architecture, with the checkpoint's number of classes.

    Args:
        arch: the architecture's name.
        weights: a state dict, or every set of weights in a checkpoint; at least one.
        key: the user's choice among several sets that fit.
        options: keyword arguments for the builder.

    Raises:
        UsageError: the architecture is unknown, its package is not installed, or ``key`` names no
            weights.
        LoadError: building the architecture fails, or several sets fit and differ.
    """
    sets = [Weights((), weights)] if isinstance(weights, Mapping) else list(weights)
    best = min(_attempts(arch, sets, dict(options or {})), key=lambda attempt: attempt.rank)
    complete = [fit for fit in best.fits if not fit.problems]
    if not complete:
        return Match(arch, best.module, best.nearest, ())
    fit, notes = choose_fit(complete, key)
    module = best.module
    if any(tensor.is_meta for tensor in module.state_dict().values()):
        module = with_memory(module, fit.state) or create(arch, **best.options)
    if "num_classes" in best.options and "num_classes" not in (options or {}):
        classes = best.options["num_classes"]
        notes = (*notes, f"{arch} was made with {classes} classes, as the file has.")
    return Match(arch, module, fit, (*fit.notes, *notes))


@dataclass(frozen=True, eq=False)
class _Attempt:
    """An architecture built with some options, and how the sets of weights fit it."""

    options: dict[str, Any]
    module: nn.Module
    fits: list[Fit]

    @property
    def nearest(self) -> Fit:
        return min(self.fits, key=lambda fit: len(fit.problems))

    @property
    def rank(self) -> tuple[int, int]:
        """The fewest problems and the fewest tensors left out; (0, 0) is a perfect fit."""
        return len(self.nearest.problems), len(self.nearest.left_out)


def _attempts(arch: str, sets: Sequence[Weights], options: dict[str, Any]) -> list[_Attempt]:
    """The variants of an architecture, up to the first perfect fit."""
    made: list[_Attempt] = []
    for variant in zoo.variants(arch):
        made.append(_attempt(arch, sets, {**variant, **options}))
        one = made[-1]
        classes = class_count(one.module, one.nearest.state)
        if is_zoo_name(arch) and classes and "num_classes" not in one.options:
            made.append(_attempt(arch, sets, {**one.options, "num_classes": classes}))
        if any(attempt.rank == (0, 0) for attempt in made):
            break
    return made


def _attempt(arch: str, sets: Sequence[Weights], options: dict[str, Any]) -> _Attempt:
    module = _skeleton(arch, options)
    sized_grids(module)
    return _Attempt(options, module, _fits(arch, module, sets))


def _fits(arch: str, module: nn.Module, sets: Sequence[Weights]) -> list[Fit]:
    """Every fit of every set. If none is complete, tie the module's weights and fit again."""
    names = Names.of(module)
    found = [fit for one in sets for fit in fits(names, one, arch)]
    tie = getattr(module, "tie_weights", None)
    if any(not fit.problems for fit in found) or not callable(tie):
        return found
    try:
        tie()
    except Exception:  # the user's tie_weights may require arguments
        return found
    names = Names.of(module)
    return [fit for one in sets for fit in fits(names, one, arch)]


def _factory(package: str, name: str) -> Any:
    hint = "Python must be able to import the package, from the working directory or as installed."
    factory = import_named(package, name, hint=_module_hint(package, name) or hint)
    if isinstance(factory, nn.Module):
        return lambda: copy.deepcopy(factory)
    if not callable(factory):
        raise UsageError(
            f"{package}:{name} cannot be called.",
            hint="Name a function that returns the model, or the model's class.",
        )
    return factory


def _module_hint(package: str, name: str) -> str:
    """How to write a file of code as a module; empty if it is written so."""
    module = package.removesuffix(".py").replace("/", ".")
    return "" if module == package else f"Write the module's name: {module}:{name}."


def _skeleton(arch: str, options: dict[str, Any]) -> nn.Module:
    """The architecture on the meta device where possible, which makes many attempts cheap."""
    if is_zoo_name(arch):
        try:
            with torch.device("meta"):
                return create(arch, **options)
        except LoadError:  # regnet, for example, computes with its initial values
            pass
    return create(arch, **options)
