"""The time of each layer of an artifact, under the names of the PyTorch modules."""

from __future__ import annotations

from deployfold.errors import MeasureError
from deployfold.events import Emit, StageProgress, ignore
from deployfold.reporting.layers import LayerTimes, TimedLayer
from deployfold.runtimes.failures import summary
from deployfold.runtimes.layer_times import LayerProfiler, LayerTime
from deployfold.runtimes.protocol import Inputs, Runner

from .onnx_modules import Modules

CALLS = 30


def layer_times(
    runner: Runner | None,
    inputs: Inputs,
    *,
    calls: int = CALLS,
    emit: Emit = ignore,
) -> LayerTimes | None:
    """Load a runner and profile it; ``None`` if its runtime never tells the time of a layer.

    Args:
        calls: inferences whose median counts.
    """
    if not isinstance(runner, LayerProfiler):
        return None
    emit(StageProgress("measure", "timing layers"))
    try:
        runner.load()
        profile = runner.profile(inputs, calls)
        modules = Modules.of(runner.onnx)
    except MeasureError as error:
        return LayerTimes(not_measured=summary(error))
    finally:
        runner.close()
    layers = tuple(_timed(one, modules) for one in profile.layers)
    return LayerTimes(layers=layers, calls=calls, details=profile.details)


def _timed(one: LayerTime, modules: Modules) -> TimedLayer:
    return TimedLayer(
        name=one.name, kind=one.kind, ms=one.ms, module=modules.find(one.onnx_nodes, one.kind)
    )
