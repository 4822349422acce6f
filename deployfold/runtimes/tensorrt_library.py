"""The library that runs an engine: its logger, its execution context, its optimization profiles."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployfold.config.optimization_profiles import within
from deployfold.errors import MeasureError
from deployfold.util.files import write_bytes

Bounds = Mapping[str, tuple[Sequence[int], Sequence[int], Sequence[int]]]
"""An optimization profile: min, opt and max shape of each input, by name."""


@dataclass(frozen=True)
class RunOptions:
    """How an engine is run.

    Attributes:
        cuda_graph: launch its work as one CUDA graph, where that can be.
        runtime_cache: a directory where TensorRT-RTX keeps the kernels that it compiles when an
            engine first runs, one file for each engine; TensorRT compiles none.
        allow_host_code: let a version-compatible engine run the lean runtime that it carries,
            which is native code: only where its author is trusted.
    """

    cuda_graph: bool = True
    runtime_cache: Path | None = None
    allow_host_code: bool = False


@dataclass(frozen=True)
class CudaGraph:
    """Whether an engine's work was launched as one CUDA graph, or kernel by kernel.

    ``reason`` says why not, or who replays it; empty where there is nothing to add.
    """

    used: bool
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Context:
    """An execution context.

    Attributes:
        captures: TensorRT-RTX captures CUDA graphs by itself.
        runtime_cache: of TensorRT-RTX; it goes to ``cache_file``.
    """

    context: Any
    captures: bool = False
    runtime_cache: Any = None
    cache_file: Path | None = None

    def graph(self, stream: int) -> CudaGraph:
        """Whether TensorRT-RTX replays a graph of its own on ``stream``; known after a run."""
        context = self.context
        if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(stream):
            return CudaGraph(False, "TensorRT-RTX cannot capture this engine")
        return CudaGraph(True, "captured by TensorRT-RTX itself")

    def close(self) -> None:
        """Write the runtime cache.

        Raises:
            UsageError: it cannot be written.
        """
        runtime_cache = self.runtime_cache
        if runtime_cache is not None and self.cache_file is not None:
            write_bytes(self.cache_file, bytes(memoryview(runtime_cache.serialize())))


def create_context(trt: Any, engine: Any, options: RunOptions, cache_name: str) -> Context:
    """An execution context for ``engine``; of TensorRT-RTX with its own runtime options.

    Args:
        cache_name: of the runtime cache's file.
    """
    made = _rtx_context(trt, engine, options, cache_name)
    return made or Context(engine.create_execution_context())


def _rtx_context(trt: Any, engine: Any, options: RunOptions, cache_name: str) -> Context | None:
    """The context that a TensorRT-RTX with runtime options makes; ``None`` of other libraries.

    Kernels for the bound shapes are compiled before the first run, and not while others stand in
    for them: a measurement would see both. Its CUDA graphs are its own, since it alone knows when
    the kernels are there:
    https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/work-with-cuda-graphs.html.
    """
    if not hasattr(trt, "CudaGraphStrategy"):
        return None
    runtime_config = engine.create_runtime_config()
    specialization = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    runtime_config.dynamic_shapes_kernel_specialization_strategy = specialization
    if options.cuda_graph:
        runtime_config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    runtime_cache, path = None, None
    if options.runtime_cache is not None:
        path = options.runtime_cache / cache_name
        runtime_cache = runtime_config.create_runtime_cache()
        if path.is_file() and not runtime_cache.deserialize(path.read_bytes()):
            runtime_cache.reset()  # of another version or driver
        runtime_config.set_runtime_cache(runtime_cache)
    context = engine.create_execution_context(runtime_config)
    return Context(context, options.cuda_graph, runtime_cache, path)


def stream_weights(engine: Any) -> None:
    """Let an engine built for weight streaming keep on the GPU what fits there."""
    if engine.streamable_weights_size > 0:
        engine.weight_streaming_budget_v2 = engine.get_weight_streaming_automatic_budget()


def runtime_library(name: str) -> Any:
    """Import ``tensorrt`` or ``tensorrt_rtx`` to run an engine with.

    Raises:
        MeasureError: it is not installed, cannot load its libraries, or another module of that
            name comes first on ``sys.path``.
    """
    try:
        module = importlib.import_module(name)
    except Exception as error:  # ImportError, OSError of a missing library, RuntimeError
        raise MeasureError(
            f"The engine needs {name}, which cannot be imported here: {error}.",
            hint=f"Install it with: pip install {name.replace('_', '-')}",
        ) from error
    if not hasattr(module, "Runtime"):
        raise MeasureError(
            f"{getattr(module, '__file__', name)} hides NVIDIA's {name}.",
            hint="Rename that file, or run from another directory.",
        )
    return module


def collecting_logger(trt: Any, messages: list[str]) -> Any:
    """A TensorRT logger that appends errors to ``messages`` and prints nothing."""

    class Collector(trt.ILogger):  # type: ignore[misc]  # the library comes at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                messages.append(" ".join(msg.split()).rstrip("."))

    return Collector()


def select_profile(
    engine: Any, context: Any, stream: int, shapes: Mapping[str, Sequence[int]]
) -> bool:
    """Make ``context`` use the first optimization profile that holds ``shapes``.

    Args:
        stream: the handle of a CUDA stream, to be synchronised afterwards.
        shapes: of every input, by name.

    Returns:
        Whether there is one. Of an engine with a single profile that is left to
        ``set_input_shape``, which says why not.
    """
    count = engine.num_optimization_profiles
    if count < 2:
        return True
    profiles = [
        {name: tuple(engine.get_tensor_profile_shape(name, index)) for name in shapes}
        for index in range(count)
    ]
    index = first_that_holds(profiles, shapes)
    return index is not None and bool(context.set_optimization_profile_async(index, stream))


def first_that_holds(profiles: Sequence[Bounds], shapes: Mapping[str, Sequence[int]]) -> int | None:
    """The index of the first profile whose bounds hold all ``shapes``; ``None`` if none does."""
    for index, profile in enumerate(profiles):
        bounds = ((profile[name], shape) for name, shape in shapes.items())
        if all(within(low, shape, high) for (low, _, high), shape in bounds):
            return index
    return None
