"""The names of a build's files, which begin with the name of the model."""

from __future__ import annotations

from pathlib import Path

from deployfold.config.precision import Precision
from deployfold.runtimes import EAGER, ONNX_RUNTIME, TENSORRT, TORCH_TENSORRT


def folded_module(model: str) -> str:
    """The pickled module with its BatchNorms folded: ``net.folded.pt``."""
    return f"{model}.folded{EAGER.suffix}"


def onnx_in(precision: Precision, model: str) -> str:
    """The ONNX in a precision: ``net.fp16.onnx``; ``net.onnx`` in fp32."""
    lowered = "" if precision is Precision.FP32 else f".{precision.value}"
    return f"{model}{lowered}{ONNX_RUNTIME.suffix}"


def engine_of(onnx: Path, label: str) -> Path:
    """The engine beside an ONNX: ``net.fp16.sm_89.engine``.

    Args:
        label: the word for the GPUs; see :attr:`.EngineRequest.label`.
    """
    return onnx.with_name(f"{onnx.stem}.{label}{TENSORRT.suffix}")


def torch_tensorrt_in(precision: Precision, model: str) -> str:
    """The program compiled by torch-tensorrt, in a precision."""
    return f"{model}.{precision.value}{TORCH_TENSORRT.suffix}"
