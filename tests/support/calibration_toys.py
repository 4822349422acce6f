"""Pictures, arrays and inputs for the calibration tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deployfold.config.inputs import InputSpec
from deployfold.config.real_data import CalibrationSpec
from deployfold.data.calibration import CalibrationData, load_calibration
from deployfold.errors import UsageError

RGB = InputSpec.parse(["image=1x3x32x32"])
ONE = InputSpec.parse(["x=1x2x3"])
TWO = InputSpec.parse(["ids=1x4:int64", "mask=1x4"])


def picture(seed: int, size: tuple[int, int] = (48, 40), mode: str = "RGB") -> Image.Image:
    """A smooth random image of ``size`` (width, height)."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode)


def folder(path: Path, count: int, *, start: int = 0, suffix: str = "png") -> Path:
    """``count`` different pictures named ``00.png`` on."""
    path.mkdir(parents=True, exist_ok=True)
    for index in range(start, start + count):
        picture(index).save(path / f"{index:02d}.{suffix}")
    return path


def load(
    source: Path | str, inputs: InputSpec = RGB, *, arch: str | None = None, **options: object
) -> CalibrationData:
    spec = CalibrationSpec(source=str(source), **options)  # type: ignore[arg-type]
    return load_calibration(spec, inputs, arch=arch)


def refusal(source: Path | str, inputs: InputSpec = RGB, **options: object) -> str:
    """The one sentence that refuses it."""
    with pytest.raises(UsageError) as caught:
        load(source, inputs, **options)  # type: ignore[arg-type]
    message = caught.value.message
    assert "\n" not in message
    assert message.endswith(".")
    return message


def samples(count: int = 10) -> np.ndarray:
    return np.arange(count * 6, dtype=np.float32).reshape(count, 2, 3)


def everything(data: CalibrationData, name: str = "x") -> list[np.ndarray]:
    return [feed[name] for feed in (*data.calibration, *data.held_back)]


def rows(data: CalibrationData, name: str = "x") -> list[list[float]]:
    return sorted(feed.reshape(-1).tolist() for feed in everything(data, name))


def expected(array: np.ndarray) -> list[list[float]]:
    return sorted(array.reshape(len(array), -1).tolist())
