"""From an engine file to an engine that can run: its sidecar first, then the library's own word."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployfold.compiling.sidecar import (
    Here,
    hash_differs,
    incompatibility,
    read_sidecar,
    weight_stripped,
    wrong_size,
)
from deployfold.errors import MeasureError
from deployfold.runtimes.tensorrt_library import (
    Context,
    RunOptions,
    collecting_logger,
    create_context,
    runtime_library,
    stream_weights,
)
from deployfold.targets.compute_capability import sm_name

from .failures import as_measure_error


@dataclass
class LoadedEngine:
    """An engine with its execution context, its library, and the errors that the library logs."""

    library: Any
    messages: list[str]
    log: Any
    runtime: Any
    engine: Any
    context: Context

    def because(self) -> str:
        """The library's last error, to end a sentence with."""
        return _because(self.messages)

    def close(self) -> None:
        """Free context, engine and runtime, in that order, as TensorRT asks for.

        Raises:
            UsageError: the runtime cache cannot be written; all is freed nevertheless.
        """
        try:
            self.context.close()
        finally:
            self.context = Context(None)
            self.engine = None
            self.runtime = None


def load_engine(path: Path, capability: tuple[int, int], options: RunOptions) -> LoadedEngine:
    """Load the engine at ``path`` on the current device, whose compute capability is given.

    Raises:
        MeasureError: by its sidecar it is not for this GPU and library, or it does not load.
    """
    name = path.name
    sidecar = runnable_sidecar(path)
    trt = runtime_library(sidecar["library"])
    version = str(trt.__version__)
    if (reason := incompatibility(sidecar, Here(capability, version))) is not None:
        raise MeasureError(f"{name} cannot run here: {reason}.")
    messages: list[str] = []
    log = collecting_logger(trt, messages)
    with as_measure_error(f"{name} cannot be loaded"):
        runtime = trt.Runtime(log)
        if options.allow_host_code:
            runtime.engine_host_code_allowed = True
        content = path.read_bytes()
        engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            if hash_differs(sidecar, path):
                raise MeasureError(f"{name} is damaged: its SHA-256 is not its sidecar's.")
            found = invalidity(trt, runtime, content)
            raise MeasureError(f"{name} cannot be loaded{found}{_because(messages)}.")
        stream_weights(engine)
        cache = f"{name}-{version}-{sm_name(capability)}.cache"
        made = create_context(trt, engine, options, cache)
        if made.context is None:
            raise MeasureError(f"{name} has no execution context{_because(messages)}.")
    return LoadedEngine(trt, messages, log, runtime, engine, made)


def runnable_sidecar(path: Path) -> dict[str, Any]:
    """The sidecar of an engine that is there, of the size that it says, and with its weights.

    Raises:
        MeasureError: it is not.
    """
    if not path.is_file():
        raise MeasureError(f"{path.name} cannot be loaded: there is no such file.")
    sidecar = read_sidecar(path)
    if (broken := wrong_size(sidecar, path)) is not None:
        raise MeasureError(f"{path.name} is damaged: {broken}.")
    if weight_stripped(sidecar):
        raise MeasureError(f"{path.name} is weight-stripped and has to be refitted first.")
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


def plain(array: NDArray[Any]) -> NDArray[Any]:
    """A copy in a dtype of NumPy itself; bfloat16, float8 and the like become float32."""
    return array.astype(array.dtype if array.dtype.isbuiltin == 1 else np.float32)


def _because(messages: list[str]) -> str:
    return f": {messages[-1]}" if messages else ""
