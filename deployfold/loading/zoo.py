"""torchvision and timm: their names, builders, default inputs and locally cached weights."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor, nn

from deployfold.errors import LoadError, UsageError, nearest

from .formats.pickled import load_pickle

_CLIP_FRAMES = 16
_AUXILIARY = ("googlenet", "inception_v3")


def names(zoo: str) -> list[str]:
    """The model names of ``"torchvision"`` or ``"timm"``; none if it is not installed."""
    try:
        package = importlib.import_module(zoo)
    except ImportError:
        return []
    found: list[str] = (package.models if zoo == "torchvision" else package).list_models()
    return [name for name in found if not name.startswith("quantized_")]


def builder(zoo: str, name: str) -> Callable[..., nn.Module]:
    """The function that builds a model without trained weights.

    Raises:
        UsageError: the zoo is not installed, or has no model of that name.
    """
    try:
        package = importlib.import_module(zoo)
    except ImportError as error:
        raise UsageError(
            f"{zoo} is not installed.", hint="pip install 'deployfold[zoo]'"
        ) from error
    known = names(zoo)
    if name not in known and name.partition(".")[0] not in known:  # timm: NAME.TAG
        raise UsageError(
            f"{zoo} has no model {name!r}.",
            hint=nearest(name, known, most=3) or f"See {zoo}'s list of models.",
        )
    if zoo == "timm":
        return lambda **options: package.create_model(name, pretrained=False, **options)
    return _torchvision_builder(package.models, name)


def _torchvision_builder(models: Any, name: str) -> Callable[..., nn.Module]:
    options: dict[str, Any] = {"weights": None}
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        options["weights_backbone"] = None  # torchvision would download the default
    if name in _AUXILIARY:
        options["init_weights"] = False  # takes seconds, after the layers' own initialisation
    return lambda **more: models.get_model(name, **{**options, **more})


def variants(arch: str) -> tuple[dict[str, Any], ...]:
    """The builder options to try, because checkpoints of one architecture differ in their keys."""
    zoo, _, name = arch.partition(":")
    if zoo == "torchvision" and name in _AUXILIARY:
        return ({}, {"aux_logits": False})
    if zoo == "torchvision" and name.startswith(("fcn_", "deeplabv3_")):
        return ({}, {"aux_loss": True})
    return ({},)


def input_size(arch: str) -> tuple[int, ...] | None:
    """The shape ``(channels, …)`` of the training inputs; ``None`` if the package lacks it."""
    zoo, _, name = arch.partition(":")
    if zoo == "timm":
        import timm

        config = timm.get_pretrained_cfg(name)
        return None if config is None else tuple(config.input_size)
    return _torchvision_input_size(name) if zoo == "torchvision" else None


def _torchvision_input_size(name: str) -> tuple[int, ...] | None:
    from torchvision import models

    try:
        transforms = next(iter(models.get_model_weights(name))).transforms()
    except (ValueError, StopIteration):
        return None
    size = getattr(transforms, "crop_size", None) or getattr(transforms, "resize_size", None)
    if not size:
        return None
    video = ".video" in models.get_model_builder(name).__module__
    return (3, *((_CLIP_FRAMES,) if video else ()), size[0], size[-1])


def cached_weights(arch: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """torchvision's default weights from torch.hub's cache, and module attributes to set.

    Nothing is downloaded, because a build must not depend on the network.

    Returns:
        The state dict and the attributes; ``None`` if the cache has no such weights.

    Raises:
        LoadError: the cached file is damaged.
    """
    zoo, _, name = arch.partition(":")
    if zoo != "torchvision":
        return None
    try:
        from torchvision import models
    except ImportError:
        return None  # the builder raises
    try:
        url = models.get_model_weights(name).DEFAULT.url
    except (ValueError, AttributeError):
        return None
    path = Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(url).name
    if not path.is_file():
        return None
    state = load_pickle(path, strict=True)
    if not isinstance(state, dict):
        raise LoadError(
            f"{path} does not contain a state dict.", hint="Delete it from torch.hub's cache."
        )
    # With transform_input, the model converts the inputs to the normalisation of its training.
    return state, {"transform_input": True} if name in _AUXILIARY else {}
