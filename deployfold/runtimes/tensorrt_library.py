"""Uses TensorRT's library to run an engine: logger, execution context, optimization profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployfold.config.optimization_profiles import within
from deployfold.util.files import write_bytes

if TYPE_CHECKING:
    from .settings import RunSettings

Bounds = Mapping[str, tuple[Sequence[int], Sequence[int], Sequence[int]]]
"""An optimization profile: min, opt and max shape of each input, by name."""


@dataclass(frozen=True)
class CudaGraph:
    """Whether an engine's work was launched as one CUDA graph, or kernel by kernel.

    ``reason`` is the reason if not, or the component that replays the graph; may be empty.
    """

    used: bool
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Context:
    """An execution context.

    Attributes:
        context: the library's ``IExecutionContext``.
        captures: whether TensorRT-RTX captures CUDA graphs itself.
        runtime_cache: the runtime cache of TensorRT-RTX, which :meth:`close` writes to
            ``cache_file``.
    """

    context: Any
    captures: bool = False
    runtime_cache: Any = None
    cache_file: Path | None = None

    def graph(self, stream: int) -> CudaGraph:
        """Whether TensorRT-RTX replays its own graph on ``stream``; known after a run."""
        context = self.context
        if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(stream):
            return CudaGraph(False, "TensorRT-RTX cannot capture this engine")
        return CudaGraph(True, "captured by TensorRT-RTX itself")

    def close(self) -> None:
        """Write the runtime cache.

        Raises:
            UsageError: the file cannot be written.
        """
        runtime_cache = self.runtime_cache
        if runtime_cache is not None and self.cache_file is not None:
            write_bytes(self.cache_file, bytes(memoryview(runtime_cache.serialize())))


def create_context(trt: Any, engine: Any, settings: RunSettings, cache_name: str) -> Context:
    """An execution context for ``engine``, with the runtime options of TensorRT-RTX if it has any.

    ``EAGER`` compiles the kernels for the bound shapes before the first run. Otherwise,
    TensorRT-RTX would run fallback kernels meanwhile, and a measurement would include both kinds.
    TensorRT-RTX captures CUDA graphs itself, because only it knows when its kernels are ready:
    https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/work-with-cuda-graphs.html.

    Args:
        trt: the library's module.
    """
    if not hasattr(trt, "CudaGraphStrategy"):
        return Context(engine.create_execution_context())
    runtime_config = engine.create_runtime_config()
    specialization = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    runtime_config.dynamic_shapes_kernel_specialization_strategy = specialization
    if settings.cuda_graph:
        runtime_config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    runtime_cache, path = None, None
    if settings.runtime_cache is not None:
        path = settings.runtime_cache / cache_name
        runtime_cache = runtime_config.create_runtime_cache()
        if path.is_file() and not runtime_cache.deserialize(path.read_bytes()):
            runtime_cache.reset()  # the file is from another version or driver
        runtime_config.set_runtime_cache(runtime_cache)
    context = engine.create_execution_context(runtime_config)
    return Context(context, settings.cuda_graph, runtime_cache, path)


def stream_weights(engine: Any) -> None:
    """Let an engine built for weight streaming keep as many weights on the GPU as fit."""
    if engine.streamable_weights_size > 0:
        engine.weight_streaming_budget_v2 = engine.get_weight_streaming_automatic_budget()


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
    """Select the first optimization profile of ``context`` that contains ``shapes``.

    The work is enqueued on ``stream``, which must be synchronised afterwards.

    Returns:
        Whether there is such a profile; always ``True`` for an engine with a single profile,
        because ``set_input_shape`` checks the shapes and logs the reason of a failure.
    """
    count = engine.num_optimization_profiles
    if count < 2:
        return True
    profiles = [
        {name: tuple(engine.get_tensor_profile_shape(name, index)) for name in shapes}
        for index in range(count)
    ]
    index = first_containing(profiles, shapes)
    return index is not None and bool(context.set_optimization_profile_async(index, stream))


def first_containing(profiles: Sequence[Bounds], shapes: Mapping[str, Sequence[int]]) -> int | None:
    """The index of the first profile whose bounds contain all ``shapes``; ``None`` without one."""
    for index, profile in enumerate(profiles):
        bounds = ((profile[name], shape) for name, shape in shapes.items())
        if all(within(low, shape, high) for (low, _, high), shape in bounds):
            return index
    return None
