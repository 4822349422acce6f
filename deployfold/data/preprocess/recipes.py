"""The preprocessing that torchvision and timm publish for their architectures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Fit = Literal["cover", "squash", "pad"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Statistics of ImageNet's training images as RGB from 0 to 1; torchvision and timm use them."""

_TIMM_CROP = 0.875
"""timm's ``DEFAULT_CROP_PCT``, for configurations that name none."""


@dataclass(frozen=True)
class Recipe:
    """The preprocessing that an architecture was trained with, scaled to the input at hand.

    Attributes:
        resize: height and width in pixels of the box that the image is resized to.
        fit: how the image fills the box: ``cover`` (then cropped), ``squash`` (aspect ratio
            lost), or ``pad`` (fits within).
        mean, std: one number per RGB channel, for values from 0 to 1.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
        origin: the package and name of the recipe, for the user.
        channels: the order of the colours in the input, ``rgb`` or ``bgr``.
    """

    resize: tuple[int, int]
    fit: Fit
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    origin: str
    channels: str = "rgb"


def architecture_recipe(arch: str | None, size: tuple[int, int]) -> Recipe | None:
    """The recipe of ``torchvision:NAME`` or ``timm:NAME``; ``None`` for other architectures.

    The function neither downloads anything nor builds a model.

    Args:
        size: height and width of the model's input. They replace the recipe's crop, and the box
            of the resizing is scaled by the same factor.
    """
    zoo, _, name = (arch or "").partition(":")
    if zoo == "timm":
        return _timm(name, size)
    return _torchvision(name, size) if zoo == "torchvision" else None


def imagenet_recipe(size: tuple[int, int]) -> Recipe:
    """The preprocessing of most ImageNet classifiers: 224 of 256 pixels, bilinear."""
    resize = scaled(size, (256, 256), (224, 224))
    return Recipe(resize, "cover", IMAGENET_MEAN, IMAGENET_STD, "bilinear", "ImageNet's defaults")


def _torchvision(name: str, size: tuple[int, int]) -> Recipe | None:
    try:
        from torchvision import models
    except ImportError:
        return None
    try:
        transforms: Any = models.get_model_weights(name).DEFAULT.transforms()
    except (ValueError, AttributeError):  # no such model, or no trained weights
        return None
    origin = f"torchvision's weights of {name}"
    resize = _pair(getattr(transforms, "resize_size", None))
    crop = _pair(getattr(transforms, "crop_size", None)) or resize
    box = size if resize is None or crop is None else scaled(size, resize, crop)
    interpolation = getattr(transforms, "interpolation", None)
    return Recipe(
        resize=box,
        fit="cover",
        # The transforms of detection models have no mean: these models normalise their input.
        mean=tuple(getattr(transforms, "mean", (0.0, 0.0, 0.0))),
        std=tuple(getattr(transforms, "std", (1.0, 1.0, 1.0))),
        interpolation=_interpolation(getattr(interpolation, "value", None), "bilinear"),
        origin=origin,
    )


def _timm(name: str, size: tuple[int, int]) -> Recipe | None:
    try:
        import timm
    except ImportError:
        return None
    try:
        pretrained = timm.get_pretrained_cfg(name)
    except (RuntimeError, ValueError, KeyError):  # no such model or tag
        return None
    if pretrained is None:
        return None
    return timm_recipe(pretrained.to_dict(), size, f"timm's configuration of {name}")


def timm_recipe(pretrained: Mapping[str, Any], size: tuple[int, int], origin: str) -> Recipe:
    """The recipe of a ``pretrained_cfg`` of timm; see :func:`architecture_recipe` for ``size``."""
    crop = float(pretrained.get("crop_pct") or _TIMM_CROP)
    fits: dict[str, Fit] = {"squash": "squash", "border": "pad"}
    return Recipe(
        # timm rounds the enlarged size down.
        resize=pair(math.floor(side / crop) for side in size),
        fit=fits.get(str(pretrained.get("crop_mode")), "cover"),
        mean=tuple(pretrained.get("mean") or IMAGENET_MEAN),
        std=tuple(pretrained.get("std") or IMAGENET_STD),
        interpolation=_interpolation(pretrained.get("interpolation"), "bicubic"),
        origin=origin,
    )


def pair(values: Any) -> tuple[int, int]:
    """The two numbers of an iterable."""
    first, second = values
    return first, second


def scaled(
    size: tuple[int, int], resize: tuple[float, float], crop: tuple[float, float]
) -> tuple[int, int]:
    """``resize``, by the factor from ``crop`` to ``size``."""
    return pair(
        round(side * whole / part) for side, whole, part in zip(size, resize, crop, strict=True)
    )


def _pair(sides: Any) -> tuple[int, int] | None:
    """Height and width of torchvision's lists of one or two numbers."""
    return (int(sides[0]), int(sides[-1])) if sides else None


def _interpolation(name: object, default: str) -> str:
    return str(name) if name in ("nearest", "bilinear", "bicubic", "lanczos") else default
