"""The runtimes that a device may have, and the artifacts that they open."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from deployfold.errors import DeployfoldError, MeasureError
from deployfold.runtimes.cuda import Cuda
from deployfold.runtimes.failures import NoDevice
from deployfold.runtimes.onnxruntime import ONNX_RUNTIME, OnnxRuntimeRunner
from deployfold.runtimes.onnxruntime_providers import resolve_provider
from deployfold.runtimes.runtime import Runtime
from deployfold.runtimes.settings import RunSettings
from deployfold.runtimes.tail import TailedRunner, with_tail
from deployfold.runtimes.tensorrt import TENSORRT, TensorRTRunner

Opened: TypeAlias = TensorRTRunner | OnnxRuntimeRunner | TailedRunner

RUNTIMES = (TENSORRT, ONNX_RUNTIME)
"""The runtimes that need no torch, in the order in which a device should try them."""


def runtime_of(path: Path) -> Runtime | None:
    """The runtime of an artifact; ``None`` for files that need torch."""
    return next((one for one in RUNTIMES if one.opens(path.name)), None)


def open_artifact(path: Path, *, trust: bool = False) -> Opened:
    """Load an artifact. An ONNX runs on a GPU if ONNX Runtime can use one, else on the CPU.

    Args:
        trust: let a version-compatible engine run the lean runtime that it contains.

    Raises:
        MeasureError: the artifact cannot run here.
    """
    settings = RunSettings(trust=trust)
    if runtime_of(path) is TENSORRT:
        return _loaded(with_tail(TensorRTRunner(path, settings), path))
    try:
        if onnx_gpu():
            try:
                return _loaded(
                    with_tail(OnnxRuntimeRunner(path, replace(settings, provider="cuda")), path)
                )
            except MeasureError:
                pass  # the provider lacks libraries or runs no node, so use the CPU
        return _loaded(with_tail(OnnxRuntimeRunner(path, settings), path))
    except ImportError as error:
        raise MeasureError(
            "ONNX Runtime is not installed here.", hint=f"Install it: {ONNX_RUNTIME.install}"
        ) from error


def _loaded(runner: Opened) -> Opened:
    try:
        runner.load()
    except NoDevice as error:
        raise MeasureError(error.reason) from error
    except BaseException:
        runner.close()
        raise
    return runner


def title(runner: Opened) -> str:
    """The runtime's title and its GPU: ``TensorRT on Orin``."""
    device = getattr(runner, "device_name", None)
    return runner.title if device is None else f"{runner.title} on {device}"


def onnx_gpu() -> bool:
    """Whether this ONNX Runtime was built for CUDA and this machine has a GPU."""
    try:
        resolve_provider("cuda")
        Cuda().close()
    except (ImportError, DeployfoldError):
        return False
    return True
