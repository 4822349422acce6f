"""The options of real inputs: the source, the number of samples, and image preprocessing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Literal

from deployfold.errors import UsageError

from .option_field import Panel, check_ranges, option
from .precision import Precision

RANDOM = "random"
"""The calibration source for random inputs; reports then print «uncalibrated»."""

PREPROCESS_JSON = "preprocess.json"
"""The file of a build that describes its image preprocessing."""

SAMPLES = 32
"""The number of real inputs to take from ``--input-data``."""


def _read_crop(text: str | None) -> tuple[int, int] | None:
    """Read ``H[xW]``."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if match is None or int(match[1]) == 0 or int(match[2] or 1) == 0:
        raise UsageError(
            f"--crop {text}: expected a height and a width in pixels.",
            hint="Write it as --crop 224 or --crop 224x160 (H x W).",
        )
    return int(match[1]), int(match[2] or match[1])


def _read_mean(text: str | None) -> tuple[float, ...] | None:
    return None if text is None else _numbers("--mean", text)


def _read_std(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    numbers = _numbers("--std", text)
    if not all(number > 0 for number in numbers):
        raise UsageError(f"--std {text}: expected positive numbers only.")
    return numbers


def _numbers(flag: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"{flag} {text}: expected numbers separated by commas.",
            hint=f"Write it as {flag} 0.485,0.456,0.406.",
        ) from error


@dataclass(frozen=True)
class PreprocessSpec:
    """How an image becomes the model's input.

    A field that is ``None`` takes the value of the architecture's own configuration.

    Attributes:
        source: ``auto`` (the model's own configuration), the path of a TOML file with these
            fields, or of a ``preprocessor_config.json``.
        resize: length of the shorter side in pixels. For an input that is not square, it is the
            length along the input's shorter axis, and the resized image covers the longer axis.
        crop: height and width in pixels; by default those of the input.
        mean, std: one number per channel, in the order of ``channels``, or one for all channels.
        interpolation: filter of the antialiased resizing.
    """

    source: str = option(
        "auto",
        "How images become inputs: the model's own way, a TOML file, or the "
        "preprocessor_config.json of Hugging Face.",
        Panel.IMAGES,
        key="preprocess",
        metavar="auto|FILE",
        path=True,
    )
    resize: int | None = option(
        None,
        "Length of the shorter side in pixels after resizing, aspect ratio kept.",
        Panel.IMAGES,
        metavar="PIXELS",
        least=1,
    )
    crop: tuple[int, int] | None = option(
        None, "Central crop in pixels.", Panel.IMAGES, metavar="H[xW]", read=_read_crop
    )
    mean: tuple[float, ...] | None = option(
        None,
        "Mean of each channel, of values from 0 to 1.",
        Panel.IMAGES,
        metavar="R,G,B",
        read=_read_mean,
    )
    std: tuple[float, ...] | None = option(
        None,
        "Standard deviation of each channel, of values from 0 to 1.",
        Panel.IMAGES,
        metavar="R,G,B",
        read=_read_std,
    )
    layout: Literal["nchw", "nhwc"] | None = option(None, "Axes of the input.", Panel.IMAGES)
    channels: Literal["rgb", "bgr"] | None = option(
        None, "Order of the colour channels.", Panel.IMAGES
    )
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = None


@dataclass(frozen=True)
class CalibrationSpec:
    """The source of real inputs and the number of samples to take.

    Attributes:
        source: a folder of images, an ``.npy``/``.npz`` file, a ``.pt`` file of tensors,
            ``package.module:function``, or ``random``.
        samples: number of samples from the source, those for calibration and those held back.
        held_back: least share of the samples that calibration never sees and that the accuracy
            guard measures on. Samples that calibration does not need are held back too.
        seed: seed of the choice where the source has more than ``samples`` inputs.
        labels: a file of labels, ``None`` for none.
        preprocess: how images become inputs.

    Raises:
        UsageError: a number is out of range.
    """

    source: str = option(
        MISSING,
        "Calibration data; a folder of images, .npy, .npz, .pt, package.module:function, or "
        "random.",
        Panel.QUANTIZATION,
        key="calib",
        metavar="SOURCE",
        common=True,
        path=True,
        code=True,
        data=True,
    )
    samples: int = option(
        256,
        "Samples taken from --calib, the held-back ones included.",
        Panel.QUANTIZATION,
        key="calib-samples",
        metavar="N",
        least=2,  # one calibrates and one is held back
    )
    held_back: float = option(
        0.25,
        "Minimum share of the samples to measure on; 64 of the others calibrate.",
        Panel.QUANTIZATION,
        metavar="SHARE",
        above=0,
        below=1,
    )
    seed: int = 0
    labels: Path | None = None
    preprocess: PreprocessSpec = field(default_factory=PreprocessSpec)

    def __post_init__(self) -> None:
        check_ranges(self)


def read_input_data(source: str | None) -> CalibrationSpec | None:
    """Read ``--input-data``; a missing flag gives ``None``."""
    return None if source is None else CalibrationSpec(source, samples=SAMPLES)


def check_calibration(precisions: Iterable[Precision], calibration: object) -> None:
    """Check that there is data for the precisions that need data.

    Raises:
        UsageError: ``calibration`` is ``None``, and a precision needs data.
    """
    need_data = [one.record.title for one in precisions if one.record.calibration == "required"]
    if need_data and calibration is None:
        raise UsageError(
            f"{need_data[0]} needs data to calibrate on.",
            hint="Add --calib pictures/ (or an .npz file). --calib random builds without data, "
            "and every report then prints «uncalibrated».",
        )
