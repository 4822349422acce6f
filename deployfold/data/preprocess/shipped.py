"""The preprocessing that a model's directory ships: Hugging Face's image processor, timm's config.

transformers writes ``preprocessor_config.json``, or ``processor_config.json`` with the same fields
under ``image_processor``. timm writes ``pretrained_cfg`` into ``config.json``. The meaning of the
fields is that of ``transformers.image_processing_utils`` and ``timm.data.resolve_data_config``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deployfold.errors import UsageError, one_line

from .recipes import IMAGENET_MEAN, IMAGENET_STD, Fit, Recipe, scaled, timm_recipe

NAMES = ("preprocessor_config.json", "processor_config.json", "config.json")
"""The files with a preprocessing, in order of preference."""

_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers for its filters."""
_BYTE = 255.0
_WARPED = 384
"""From this size on, ConvNeXt's processor squashes pictures and crops nothing."""


def shipped_file(source: str) -> Path | None:
    """The file with a preprocessing in the directory ``source``; ``None`` without any."""
    for name in NAMES:
        path = Path(source) / name
        if path.is_file() and _fields(path) is not None:
            return path
    return None


def shipped_recipe(path: Path, size: tuple[int, int]) -> Recipe:
    """The recipe in a file that :func:`shipped_file` found or the user named.

    A central crop of an odd margin may lie one pixel beside that of transformers.

    Args:
        size: height and width of the model's input. They replace the file's crop, and the box of
            the resizing is scaled by the same factor.

    Raises:
        UsageError: the file cannot be read, or has no preprocessing or a value that is none.
    """
    fields = _fields(path)
    if fields is None:
        raise UsageError(
            f"{path} holds no preprocessing of images.",
            hint="It is in the preprocessor_config.json of transformers, or in timm's config.json.",
        )
    try:
        if path.name == "config.json":
            return timm_recipe(fields, size, str(path))
        return _transformers(fields, size, str(path))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UsageError(f"{path} holds a bad preprocessing: {one_line(error)}.") from error


def input_shape(path: Path) -> tuple[int, int] | None:
    """Height and width of the pictures that a preprocessing makes; ``None`` if it does not say."""
    fields = _fields(path) or {}
    size = fields.get("crop_size" if fields.get("do_center_crop") else "size")
    sides = _sides(size) if path.name != "config.json" else None
    return None if sides is None else (round(sides[0]), round(sides[1]))


def _fields(path: Path) -> Mapping[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read: {one_line(error)}.") from error
    key = {"processor_config.json": "image_processor", "config.json": "pretrained_cfg"}
    if isinstance(content, dict) and path.name in key:
        content = content.get(key[path.name])
    known = ("image_mean", "do_rescale", "do_normalize", "do_resize", "mean")
    return content if isinstance(content, dict) and any(one in content for one in known) else None


def _transformers(fields: Mapping[str, Any], size: tuple[int, int], origin: str) -> Recipe:
    resize, fit = _resized(fields, size)
    # (byte · factor − offset − mean) / std, for our values from 0 to 1, which are byte / 255.
    factor = float(fields.get("rescale_factor", 1 / _BYTE)) if fields.get("do_rescale", True) else 1
    normalised = fields.get("do_normalize", False)
    scale = factor * _BYTE
    offset = float(bool(fields.get("rescale_offset") or fields.get("offset")))
    mean, std = (
        _numbers(fields.get(key) or default if normalised else neutral)
        for key, default, neutral in (
            ("image_mean", IMAGENET_MEAN, (0.0,)),
            ("image_std", IMAGENET_STD, (1.0,)),
        )
    )
    return Recipe(
        resize=resize,
        fit=fit,
        mean=tuple((one + offset) / scale for one in mean),
        # With include_top, EfficientNet's processor divides by std twice.
        std=tuple(one ** (2 if fields.get("include_top") else 1) / scale for one in std),
        interpolation=_RESAMPLE.get(fields.get("resample", 2), "bilinear"),
        origin=origin,
        channels="bgr" if fields.get("do_flip_channel_order") else "rgb",
    )


def _resized(fields: Mapping[str, Any], size: tuple[int, int]) -> tuple[tuple[int, int], Fit]:
    wanted = fields.get("size")
    if not fields.get("do_resize", True) or wanted is None:
        return size, "cover"
    cropped = _sides(fields.get("crop_size")) if fields.get("do_center_crop") else None
    shortest = wanted.get("shortest_edge") if isinstance(wanted, dict) else None
    if isinstance(wanted, int) and cropped is not None:
        shortest = wanted
    if shortest is None:
        box = _sides(wanted) or size
        return scaled(size, box, cropped or box), "squash"
    edge = float(shortest)
    crop = cropped or (edge, edge)
    share = fields.get("crop_pct")
    if share is not None and cropped is None and edge >= _WARPED:  # ConvNeXt's processor
        return size, "squash"
    if share is not None:
        edge = math.floor(edge / float(share))
    return scaled(size, (edge, edge), crop), "cover"


def _numbers(values: Any) -> tuple[float, ...]:
    numbers = tuple(map(float, values))
    if len(numbers) not in (1, 3):
        raise ValueError(f"{len(numbers)} channels")
    return numbers


def _sides(size: Any) -> tuple[float, float] | None:
    """Height and width of ``size``: one number, or a mapping; ``None`` for neither."""
    if isinstance(size, dict):
        edge = size.get("shortest_edge")
        height, width = size.get("height", edge), size.get("width", edge)
    else:
        height = width = size
    if not isinstance(height, (int, float)) or not isinstance(width, (int, float)):
        return None
    return (float(height), float(width)) if min(height, width) > 0 else None
