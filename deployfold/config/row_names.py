"""The names of the rows of a build: keys of the report, of thresholds and of ``compare``.

An exporter names its own row (:attr:`~deployfold.exporting.Exporter.row`).
"""

from __future__ import annotations

from deployfold.config.precision import Precision

PYTORCH = "pytorch"
ORIGINAL_ONNX = "original"
ORIGINALS = (PYTORCH, ORIGINAL_ONNX)
"""The original of a build, first in its table: a PyTorch model or an ONNX."""

FOLDED = "folded"
FP32_ONNX = "onnxruntime"
CUT_ONNX = f"{FP32_ONNX}-cut"
"""The part of an ONNX in front of its NonMaxSuppression."""


def lowered_onnx(precision: Precision) -> str:
    """The row of an ONNX in a precision."""
    return f"{FP32_ONNX}-{precision.value}"


def engine(precision: Precision, where: str = "") -> str:
    """The row of a TensorRT engine; ``where`` names the GPU if a build has several or none."""
    return f"tensorrt-{precision.value}" + (f"-{where}" if where else "")


def engine_title(library: str, precision: Precision, where: str = "") -> str:
    """How tables call that row; ``library`` is the title of TensorRT or TensorRT-RTX."""
    return f"{library} {precision.value}" + (f", {where}" if where else "")


def torch_tensorrt(precision: Precision) -> str:
    """The row of a program compiled by torch-tensorrt."""
    return f"torch-tensorrt-{precision.value}"
