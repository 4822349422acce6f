"""Loads an engine file: checks its sidecar first, then lets the library deserialise it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deployfold.compiling.sidecar import Here, Sidecar, read_sidecar
from deployfold.errors import MeasureError
from deployfold.runtimes.tensorrt_library import collecting_logger
from deployfold.targets.libraries import import_library, lean_runtime_hint
from deployfold.util.arrays import Array

from .failures import as_measure_error, check_there


@dataclass
class OpenEngine:
    """An engine in memory, its library, and the errors that the library logs."""

    library: Any
    messages: list[str]
    log: Any
    runtime: Any
    engine: Any


def open_engine(path: Path, capability: tuple[int, int], *, trust: bool) -> OpenEngine:
    """Read the engine at ``path`` on the current device.

    Args:
        trust: see :attr:`.RunSettings.trust`.

    Raises:
        MeasureError: the sidecar names another GPU or library version, or the library cannot load
            the engine.
    """
    name = path.name
    sidecar = whole_sidecar(path)
    trt = import_library(sidecar.library, MeasureError)
    if (reason := sidecar.incompatibility(Here(capability, str(trt.__version__)))) is not None:
        raise MeasureError(f"{name} cannot run here: {reason}.")
    messages: list[str] = []
    log = collecting_logger(trt, messages)
    with as_measure_error(f"{name} cannot be loaded"):
        runtime = trt.Runtime(log)
        if trust:
            runtime.engine_host_code_allowed = True
        content = path.read_bytes()
        engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            if not sidecar.describes(path):
                raise MeasureError(f"{name} is damaged: its SHA-256 is not its sidecar's.")
            found = invalidity(trt, runtime, content)
            raise MeasureError(
                f"{name} cannot be loaded{found}{because(messages)}.",
                hint=lean_runtime_hint(messages),
            )
    return OpenEngine(trt, messages, log, runtime, engine)


def whole_sidecar(path: Path) -> Sidecar:
    """The sidecar of an engine that is there and has the size that the sidecar says.

    Raises:
        MeasureError: the engine or its sidecar is missing, or the engine has another size.
    """
    check_there(path)
    sidecar = read_sidecar(path)
    if (broken := sidecar.wrong_size(path)) is not None:
        raise MeasureError(f"{path.name} is damaged: {broken}.")
    return sidecar


def invalidity(trt: Any, runtime: Any, engine: bytes) -> str:
    """TensorRT-RTX's reasons against an engine, as ``, unsupported cc``; empty by TensorRT."""
    if not hasattr(runtime, "get_engine_validity"):  # of TensorRT-RTX alone
        return ""
    _, found = runtime.get_engine_validity(engine)
    reasons = [
        member.name.lower().replace("_", " ")
        for member in trt.EngineInvalidityDiagnostics.__members__.values()
        if int(member) & int(found)
    ]
    return "".join(f", {reason}" for reason in reasons)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The dtype of that name; of ``bfloat16`` and the like by ``ml_dtypes``, which onnx brings.

    Raises:
        TypeError: there is none.
    """
    try:
        return np.dtype(name)
    except TypeError:
        try:
            import ml_dtypes

            found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
            return found
        except (ImportError, AttributeError):
            raise TypeError(name) from None


def plain(array: Array) -> Array:
    """A copy in a dtype of NumPy itself; bfloat16, float8 and the like become float32."""
    return array.astype(array.dtype if array.dtype.isbuiltin == 1 else np.float32)


def because(messages: list[str]) -> str:
    """The last error that a library logged, to end a sentence with; empty without one."""
    return f": {messages[-1]}" if messages else ""
