"""Lowering one file in a test: the options that tests use, as keywords."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployfold.config.accuracy import GuardSpec, KeepSpec
from deployfold.config.precision import Precision
from deployfold.exporting.storage import EXTERNAL_DATA_BYTES
from deployfold.lowering import lower
from deployfold.lowering.progress import Progress, silent
from deployfold.lowering.request import LoweringData, LoweringOptions
from deployfold.lowering.result import LoweredModel

Feeds = Sequence[Mapping[str, NDArray[np.generic]]]


def lower_cast(
    source: Path,
    path: Path,
    precision: Precision,
    *,
    inputs: Feeds,
    guard: GuardSpec | None = None,
    keep: KeepSpec | None = None,
    float_io: bool = True,
    external_threshold: int = EXTERNAL_DATA_BYTES,
) -> LoweredModel:
    options = LoweringOptions(
        guard=guard or GuardSpec(),
        keep=keep or KeepSpec(),
        float_io=float_io,
        external_threshold=external_threshold,
    )
    return lower(source, path, precision, LoweringData(inputs, inputs_real=True), options)


def lower_fp16(source: Path, path: Path, **options: Any) -> LoweredModel:
    return lower_cast(source, path, Precision.FP16, **options)


def lower_bf16(source: Path, path: Path, **options: Any) -> LoweredModel:
    return lower_cast(source, path, Precision.BF16, **options)


def lower_qdq(
    source: Path,
    path: Path,
    *,
    precision: Precision,
    calibration: Feeds,
    held_back: Feeds,
    judged: Feeds = (),
    pictures: Sequence[int] = (),
    held_back_pictures: Sequence[int] = (),
    labels: Sequence[int] | None = None,
    fitted: bool = True,
    residual: bool = False,
    fallback: Precision = Precision.FP16,
    guard: GuardSpec | None = None,
    keep: KeepSpec | None = None,
    float_io: bool = True,
    external_threshold: int = EXTERNAL_DATA_BYTES,
    progress: Progress = silent,
) -> LoweredModel:
    data = LoweringData(
        inputs=calibration[:1],
        calibration=calibration,
        pictures=tuple(pictures),
        held_back=held_back,
        held_back_pictures=tuple(held_back_pictures),
        judged=judged,
        held_back_labels=None if labels is None else tuple(labels),
        calibration_origin="samples",
        calibration_real=fitted,
    )
    options = LoweringOptions(
        guard=guard or GuardSpec(),
        keep=keep or KeepSpec(),
        rest=fallback,
        residual=residual,
        float_io=float_io,
        external_threshold=external_threshold,
    )
    return lower(source, path, precision, data, options, progress=progress)


def lower_int8(source: Path, path: Path, **options: Any) -> LoweredModel:
    return lower_qdq(source, path, precision=Precision.INT8, **options)
