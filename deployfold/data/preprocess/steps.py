"""Turns an image into a model's input; reads and writes the steps as ``preprocess.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deployfold.config.real_data import PREPROCESS_JSON
from deployfold.data.samples import Unreadable
from deployfold.errors import UsageError
from deployfold.util.arrays import Array
from deployfold.util.files import write_text

from .recipes import Fit

MAX_PIXELS = 89_478_485
"""The area at which Pillow warns of a decompression bomb: 256 MiB at three bytes per pixel."""


@dataclass(frozen=True)
class Preprocess:
    """The complete steps from an image to an input.

    Attributes:
        resize: height and width in pixels of the box that the image is resized to.
        fit: how the image fills the box: ``cover`` and ``pad`` keep the aspect ratio, ``squash``
            does not.
        crop: height and width in pixels of the central crop, which is the model's input.
        interpolation: name in Pillow's ``Resampling``, in lower case; Pillow always antialiases.
        mean, std: for values from 0 to 1, in the order of the input's channels.
        layout: ``nchw`` or ``nhwc``.
        channels: ``rgb``, ``bgr`` or ``grey``.
        dtype: ``float32``, or ``uint8`` for a model that takes pixels as they are: the image is
            then resized and cropped alone, and the mean is the colour around a padded one.
        notes: sentences for the report; the first lists the steps.
    """

    resize: tuple[int, int]
    fit: Fit
    crop: tuple[int, int]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: str
    channels: str
    dtype: str = "float32"
    notes: tuple[str, ...] = ()

    @property
    def mode(self) -> str:
        """Pillow's mode for the images that :meth:`apply` takes."""
        return "L" if self.channels == "grey" else "RGB"

    def apply(self, image: Image.Image) -> Array:
        """The array of one image, without a batch axis.

        The values equal those of torchvision's and timm's evaluation transforms.

        Raises:
            Unreadable: the resized image would exceed :data:`MAX_PIXELS`.
        """
        width, height = image.size
        size = self._resized(height, width)
        if size[0] * size[1] > MAX_PIXELS:
            raise Unreadable(
                f"is {width}x{height} pixels, and would be {size[1]}x{size[0]} when resized."
            )
        method = Image.Resampling[self.interpolation.upper()]
        image = self._centre(image.resize((size[1], size[0]), method))
        values: Array = np.asarray(image).reshape(*self.crop, -1)
        if self.channels == "bgr":
            values = values[:, :, ::-1]
        if self.dtype != "uint8":
            values = values.astype(np.float32) / np.float32(255)
            values = (values - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(values.transpose(2, 0, 1) if self.layout == "nchw" else values)

    def frame(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Where :meth:`apply` puts a pixel of an image: at ``(x * a + c, y * b + d)``.

        Args:
            width, height: of the image.

        Returns:
            a, b, c, d.
        """
        rows, columns = self._resized(height, width)
        left, top = (
            (own - side) // 2 if side < own else -round((side - own) / 2)
            for side, own in ((columns, self.crop[1]), (rows, self.crop[0]))
        )
        return columns / width, rows / height, left, top

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        box_height, box_width = self.resize
        if self.fit == "squash":
            return self.resize
        if self.fit == "cover" and box_height == box_width:
            # torchvision resizes the shorter side to the length and rounds the longer side down.
            short = box_height
            if height <= width:
                return short, int(short * width / height)
            return int(short * height / width), short
        ratios = (height / box_height, width / box_width)
        ratio = max(ratios) if self.fit == "pad" else min(ratios)
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def _centre(self, image: Image.Image) -> Image.Image:
        height, width = self.crop
        if image.width < width or image.height < height:
            canvas = (max(image.width, width), max(image.height, height))
            padded = Image.new(self.mode, canvas, self._fill())
            padded.paste(image, ((canvas[0] - image.width) // 2, (canvas[1] - image.height) // 2))
            image = padded
        # Like torchvision's crop, round() rounds halves to even.
        top, left = round((image.height - height) / 2), round((image.width - width) / 2)
        return image.crop((left, top, left + width, top + height))

    def _fill(self) -> float | tuple[float, ...]:
        """The colour around a padded image: the mean, in Pillow's channel order."""
        levels = [round(255 * value) for value in self.mean]
        if self.channels == "grey":
            return levels[0]
        return tuple(reversed(levels) if self.channels == "bgr" else levels)


def write_preprocess(steps: Preprocess, directory: Path) -> Path:
    """Write every step to ``preprocess.json`` in a build's directory, for later runs."""
    path = directory / PREPROCESS_JSON
    write_text(path, json.dumps(asdict(steps), indent=2) + "\n")
    return path


def read_preprocess(path: Path) -> Preprocess:
    """Read a build's ``preprocess.json``.

    Raises:
        UsageError: the file cannot be read, or lacks a step.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"Cannot read the preprocessing {path}: {error}.") from error
    return preprocess_from_json(data if isinstance(data, dict) else {})


def preprocess_from_json(data: Mapping[str, Any]) -> Preprocess:
    """Read the steps back from the content of ``preprocess.json``.

    Raises:
        UsageError: a step is missing.
    """
    try:
        known: dict[str, Any] = {
            field.name: data.get(field.name, "float32")
            if field.name == "dtype"  # files of older builds lack it
            else data[field.name]
            for field in fields(Preprocess)
        }
    except KeyError as error:
        raise UsageError(f"The preprocessing lacks {error}.") from error
    lists = {key: tuple(value) for key, value in known.items() if isinstance(value, list)}
    return Preprocess(**known | lists)
