"""What the user asked of INT8, FP8 and INT4: calibration data, preprocessing, accuracy to keep.

Validated, immutable, and free of torch, like :mod:`deployfold.config.spec`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from deployfold.errors import UsageError

RANDOM = "random"
"""The calibration source that stands for no data at all; reports then say «uncalibrated»."""

PREPROCESS_JSON = "preprocess.json"
"""The file of a build that says how it made its inputs of images."""


@dataclass(frozen=True)
class PreprocessSpec:
    """How an image becomes the model's input; ``None`` leaves a step to the architecture's own.

    Attributes:
        source: ``auto`` (the architecture's own configuration), or the path of a TOML file with
            these fields.
        resize: length in pixels of the shorter side after resizing, aspect ratio kept. Where the
            input is not square: its shorter side's, and the image covers the longer one too.
        crop: height and width in pixels of the central crop; by default that of the input.
        mean, std: per channel, of values scaled to 0 … 1, in the order of ``channels``; one number
            counts for all.
        layout: axes of one image in the input.
        channels: order of the colour channels.
        interpolation: of the resizing, which is antialiased.
    """

    source: str = "auto"
    resize: int | None = None
    crop: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: Literal["nchw", "nhwc"] | None = None
    channels: Literal["rgb", "bgr"] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = None


@dataclass(frozen=True)
class CalibrationSpec:
    """Where calibration inputs come from and how many are taken.

    Attributes:
        source: a folder of images, an ``.npy``/``.npz`` file, a ``.pt`` file of tensors,
            ``package.module:function``, or ``random``.
        samples: inputs taken of it, calibration and held-back together.
        held_back: the share of them that is kept from calibration, for the guard to measure on;
            so are all that calibration does not need.
        seed: of the choice among more inputs than ``samples``.
        labels: a file of labels, ``None`` for none.
        preprocess: for images.

    Raises:
        UsageError: a number is out of range.
    """

    source: str
    samples: int = 256
    held_back: float = 0.25
    seed: int = 0
    labels: Path | None = None
    preprocess: PreprocessSpec = field(default_factory=PreprocessSpec)

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise UsageError(
                f"--calib-samples {self.samples} is too few.",
                hint="One sample calibrates and one is held back at the least; 256 is usual.",
            )
        if not 0.0 < self.held_back < 1.0:
            raise UsageError(
                f"A held-back share of {self.held_back:g} is not between 0 and 1.",
                hint="Write it as --held-back 0.25.",
            )


@dataclass(frozen=True)
class GuardSpec:
    """The accuracy that INT8, FP8 or INT4 must keep on the held-back inputs.

    Attributes:
        min_sqnr_db: least signal-to-quantisation-noise ratio in dB of every output. 20 dB is noise
            of a tenth of the signal.
        min_agreement: least share of inputs whose top-1 class stays; ``None`` sets no limit.
        min_int8_share: least share of the multiply-accumulates that must remain so; below
            it, the guard gives up.
        enabled: ``False`` quantises every layer that can be, whatever it costs.

    Raises:
        UsageError: a number is out of range.
    """

    min_sqnr_db: float = 20.0
    min_agreement: float | None = None
    min_int8_share: float = 0.5
    enabled: bool = True

    def __post_init__(self) -> None:
        for name, value in (
            ("--min-agreement", self.min_agreement),
            ("--min-int8-share", self.min_int8_share),
        ):
            if value is not None and not 0.0 <= value <= 1.0:
                raise UsageError(f"{name} {value:g} is not between 0 and 1.")
