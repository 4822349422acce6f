"""The options of real data and of lowered precisions: calibration, preprocessing, accuracy.

Validated, immutable, and free of torch.
"""

from __future__ import annotations

import math
import re
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Literal

from deployfold.errors import UsageError

from .option import Panel, check_ranges, option
from .precision import Precision

RANDOM = "random"
"""The calibration source that stands for no data at all; reports then print «uncalibrated»."""

PREPROCESS_JSON = "preprocess.json"
"""The file of a build that describes how its inputs were made of images."""


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
    """How an image becomes the model's input; ``None`` leaves a step to the architecture's own.

    Attributes:
        source: ``auto`` (the architecture's own configuration), or the path of a TOML file with
            these fields.
        resize: where the input is not square, the shorter side belongs to the input's shorter
            side, and the image covers the longer one too.
        crop: height and width in pixels; by default those of the input.
        mean, std: in the order of ``channels``; one number counts for all.
        interpolation: of the resizing, which is antialiased.
    """

    source: str = option(
        "auto",
        "How images become inputs: the architecture's own way, or a TOML file.",
        Panel.IMAGES,
        key="preprocess",
        metavar="auto|FILE",
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
    """Where real inputs come from and how many are taken.

    Attributes:
        source: a folder of images, an ``.npy``/``.npz`` file, a ``.pt`` file of tensors,
            ``package.module:function``, or ``random``.
        samples: inputs taken from the source, calibration and held-back together.
        held_back: the share of them that the guard measures on and no calibration sees. Samples
            that calibration does not need are held back too.
        seed: chooses among more inputs than ``samples``.
        labels: a file of labels, ``None`` for none.
        preprocess: for images.

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
        "Least share of the samples to measure on; 64 of the others calibrate.",
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


@dataclass(frozen=True)
class KeepSpec:
    """Nodes that must stay in fp32, whatever they cost."""

    names: tuple[str, ...] = option(
        (),
        "Keep this node or module in fp32, such as head or blocks.*.norm; repeat it for several.",
        Panel.QUANTIZATION,
        key="keep-fp32",
        metavar="PATTERN",
    )
    operators: tuple[str, ...] = option(
        (),
        "Keep every node of this ONNX operator in fp32, such as Softmax; repeat it for several.",
        Panel.QUANTIZATION,
        key="keep-fp32-op",
        metavar="OP",
    )


def parse_min_sqnr(texts: tuple[str, ...]) -> tuple[tuple[Precision, float], ...]:
    """Read every ``--min-sqnr-for PRECISION=DB``.

    Raises:
        UsageError: a text is not ``PRECISION=DB``, or the precision is not a lowered one.
    """
    lowered = {one.value: one for one in Precision if one.record.family != "none"}
    limits = []
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            limit = float(number)
        except ValueError:
            limit = math.nan
        if name not in lowered or not math.isfinite(limit):
            raise UsageError(
                f"--min-sqnr-for {text}: expected PRECISION=DB, such as fp16=40.",
                hint=f"The precisions are {', '.join(lowered)}.",
            )
        limits.append((lowered[name], limit))
    return tuple(limits)


@dataclass(frozen=True)
class GuardSpec:
    """The accuracy that lowered models must keep; quantised ones on the held-back inputs.

    Attributes:
        min_sqnr_db: least signal-to-quantisation-noise ratio in dB of every output of a quantised
            model. 20 dB is noise of a tenth of the signal.
        by_precision: the same for single precisions. The others have the default of their record,
            or ``min_sqnr_db`` where they are quantised.
        enabled: ``False`` lowers every layer that can be, whatever it costs.

    Raises:
        UsageError: a number is out of range.
    """

    min_sqnr_db: float = option(
        Precision.INT8.record.min_sqnr_db,
        "SQNR that quantised models must keep; it holds for every output, and layers go back to "
        "--rest-precision for it.",
        Panel.QUANTIZATION,
        key="min-sqnr",
        metavar="DB",
        common=True,
    )
    by_precision: tuple[tuple[Precision, float], ...] = option(
        (),
        "The same for one precision, such as fp16=40; 30 by default in fp16, 20 in bf16. Nodes go "
        "back to fp32 for it.",
        Panel.QUANTIZATION,
        key="min-sqnr-for",
        metavar="PRECISION=DB",
        read=parse_min_sqnr,
    )
    min_agreement: float | None = option(
        None,
        "Share of samples whose top-1 class must stay.",
        Panel.QUANTIZATION,
        metavar="SHARE",
        least=0,
        most=1,
    )
    min_quantized_share: float = option(
        0.5,
        "Share of the multiply-accumulates that must stay quantised, or the precision is refused.",
        Panel.QUANTIZATION,
        older_keys=("min-int8-share",),
        metavar="SHARE",
        least=0,
        most=1,
    )
    enabled: bool = option(
        True,
        "Lower every layer, whatever accuracy it costs.",
        Panel.QUANTIZATION,
        key="guard",
    )

    def __post_init__(self) -> None:
        check_ranges(self)

    def min_sqnr(self, precision: Precision) -> float:
        """The least SQNR in dB of one precision."""
        record = precision.record
        default = self.min_sqnr_db if record.family == "qdq" else record.min_sqnr_db
        return dict(self.by_precision).get(precision, default)
