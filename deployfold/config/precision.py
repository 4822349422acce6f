"""The precisions that a model can be built in."""

from __future__ import annotations

from enum import Enum


class Precision(str, Enum):
    """The numeric precision written into a lowered ONNX, and so of the engine built from it."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    FP8 = "fp8"
    INT4 = "int4"
