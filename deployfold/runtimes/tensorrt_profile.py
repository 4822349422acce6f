"""The time of each layer of an engine: TensorRT's profiler and its engine inspector.

See https://docs.nvidia.com/deeplearning/tensorrt/latest/performance/best-practices.html. Every
TensorRT name used here stands, with this signature, in the Python bindings of TensorRT 10.16, 11.4
and TensorRT-RTX 1.7.1.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from deployfold.compiling.tensorrt.network import onnx_nodes
from deployfold.errors import MeasureError

from .layer_times import WARM_UP, LayerTime, Profile
from .tensorrt_load import LoadedEngine


def profile_engine(loaded: LoadedEngine, run: Callable[[], None], calls: int) -> Profile:
    """Run an engine with a profiler, and read its layers back.

    Args:
        loaded: its context has the inputs bound.
        run: one inference without a CUDA graph, waited for.

    Raises:
        MeasureError: TensorRT reported no layer.
    """
    trt: Any = loaded.library
    engine, context = loaded.engine, loaded.context.context
    times: dict[str, list[float]] = defaultdict(list)

    class Collector(trt.IProfiler):  # type: ignore[misc]  # the library comes at run time
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times[layer_name].append(float(ms))

    for _ in range(WARM_UP):
        run()
    collector = Collector()
    context.profiler = collector
    context.enqueue_emits_profile = True
    for _ in range(calls):
        run()
    if not times:
        raise MeasureError("TensorRT reported the time of no layer")
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    details = _details(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    described = _described(details)
    return Profile(
        tuple(_layer(name, found, described.get(name, {})) for name, found in times.items()),
        details,
    )


def _layer(name: str, times: list[float], described: Mapping[str, Any]) -> LayerTime:
    nodes = onnx_nodes(str(described.get("Metadata", "")))
    kind = str(described.get("LayerType", ""))
    return LayerTime(name, kind, statistics.median(times), nodes)


def _details(text: str) -> dict[str, Any] | None:
    try:
        details = json.loads(text)
    except ValueError:
        return None
    return details if isinstance(details, dict) else None


def _described(details: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    """The inspector's layers by name. An engine without details lists names alone."""
    layers = [] if details is None else details.get("Layers", [])
    return {str(one["Name"]): one for one in layers if isinstance(one, dict) and "Name" in one}
