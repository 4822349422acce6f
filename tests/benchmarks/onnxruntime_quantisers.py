"""ONNX Runtime's quantisers, as ``int8_accuracy.py`` calls them: with a source, a destination, the
calibration samples and the photograph of each sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    HQQWeightOnlyQuantConfig,
    MatMulNBitsQuantizer,
)

Feed = dict[str, np.ndarray]
Quantiser = Callable[[Path, Path, list[Feed], list[int]], None]

_AT_ONCE = 18
"""Samples that ONNX Runtime calibrates on at a time; a divisor of 126."""


class Reader(CalibrationDataReader):
    """Hands ONNX Runtime one sample after another, of the range that it asks for."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._all = feeds
        self._feeds = iter(feeds)

    def __len__(self) -> int:
        return len(self._all)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Go on with these samples."""
        self._feeds = iter(self._all[start_index:end_index])

    def get_next(self) -> Feed | None:
        """The next sample."""
        return next(self._feeds, None)


def static(method: CalibrationMethod, operators: Sequence[str] = (), **options: Any) -> Quantiser:
    """The static quantiser in TensorRT's form: symmetric, weights per channel.

    Its histograms are those of all samples, merged from a few samples at a time: of 126 at once it
    keeps every activation of EfficientNet-Lite2, 14 GB.

    Args:
        operators: the operators to quantise; all that it can if empty.
    """

    def quantise(source: Path, path: Path, samples: list[Feed], _: list[int]) -> None:
        quantize_static(
            source,
            path,
            Reader(samples),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(operators) or None,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=method,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "CalibStridedMinMax": gcd(len(samples), _AT_ONCE),
            }
            | options,
        )

    return quantise


def dynamic(source: Path, path: Path, *_: object) -> None:
    """The dynamic quantiser: ranges of each input at run time, unknown to TensorRT."""
    quantize_dynamic(source, path, per_channel=True, weight_type=QuantType.QInt8)


def int4(config: DefaultWeightOnlyQuantConfig | HQQWeightOnlyQuantConfig) -> Quantiser:
    """INT4 weights of matrix products (MatMulNBits), which need no samples."""

    def quantise(source: Path, path: Path, *_: object) -> None:
        quantizer = MatMulNBitsQuantizer(onnx.load(source), algo_config=config)
        quantizer.process()
        quantizer.model.save_model_to_file(str(path))

    return quantise


_PERCENTILE = {"CalibPercentile": 99.99}

INT8: dict[str, Quantiser] = {
    "onnxruntime MinMax": static(CalibrationMethod.MinMax),
    "onnxruntime Percentile 99.99": static(CalibrationMethod.Percentile, **_PERCENTILE),
    "onnxruntime Percentile 99.999": static(CalibrationMethod.Percentile, CalibPercentile=99.999),
    "onnxruntime Entropy": static(CalibrationMethod.Entropy),
    "onnxruntime dynamic": dynamic,
}

PARTS: dict[str, Quantiser] = {
    **{
        f"{title}, {kind}": static(method, [kind], **options)
        for kind in ("Conv", "MatMul")
        for title, method, options in (
            ("onnxruntime MinMax", CalibrationMethod.MinMax, {}),
            ("onnxruntime Percentile 99.99", CalibrationMethod.Percentile, _PERCENTILE),
        )
    },
    "onnxruntime INT4": int4(DefaultWeightOnlyQuantConfig(block_size=128, is_symmetric=True)),
    "onnxruntime INT4, HQQ": int4(HQQWeightOnlyQuantConfig(block_size=128)),
}
"""Convolutions or matrix products alone, and weights alone; ``--only`` runs them."""
