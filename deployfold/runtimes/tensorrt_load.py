"""An engine that is ready to run: opened, with its weights and an execution context."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deployfold.compiling.sidecar import Sidecar
from deployfold.errors import MeasureError
from deployfold.runtimes.tensorrt_library import Context, create_context, stream_weights
from deployfold.targets.compute_capability import sm_name

from .failures import as_measure_error
from .settings import RunSettings
from .tensorrt_file import OpenEngine, because, whole_sidecar
from .tensorrt_refit import onnx_with_weights, with_weights


@dataclass
class LoadedEngine(OpenEngine):
    """An engine with its execution context."""

    context: Context

    def because(self) -> str:
        """The library's last error, to end a sentence with."""
        return because(self.messages)

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


def load_engine(path: Path, capability: tuple[int, int], settings: RunSettings) -> LoadedEngine:
    """Load the engine at ``path`` on the current device, whose compute capability is given.

    A weight-stripped engine gets its weights first; see :func:`.tensorrt_refit.with_weights`.

    Raises:
        MeasureError: by its sidecar it is not for this GPU and library, or it does not load.
    """
    opened = with_weights(path, capability, trust=settings.trust)
    name, trt, engine = path.name, opened.library, opened.engine
    with as_measure_error(f"{name} cannot be loaded"):
        stream_weights(engine)
        cache = f"{name}-{trt.__version__}-{sm_name(capability)}.cache"
        made = create_context(trt, engine, settings, cache)
        if made.context is None:
            raise MeasureError(f"{name} has no execution context{because(opened.messages)}.")
    return LoadedEngine(**vars(opened), context=made)


def runnable_sidecar(path: Path) -> Sidecar:
    """The sidecar of an engine that is there, whole, and with its weights or an ONNX that has them.

    Raises:
        MeasureError: the engine, its sidecar or that ONNX is missing, or the engine is damaged.
    """
    sidecar = whole_sidecar(path)
    if sidecar.weight_stripped:
        onnx_with_weights(sidecar, path)
    return sidecar
