"""The time of each layer of an artifact, under the names of the PyTorch modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deployfold.errors import MeasureError
from deployfold.events import Emit, StageProgress, ignore
from deployfold.runtimes.failures import summary
from deployfold.runtimes.layer_times import LayerProfiler, LayerTime
from deployfold.runtimes.protocol import Inputs, Runner

from .onnx_modules import Modules

CALLS = 30


@dataclass(frozen=True)
class TimedLayer:
    """A layer with its time and the path of its module; ``None`` where it is not known."""

    name: str
    kind: str
    ms: float
    module: str | None


@dataclass(frozen=True)
class LayerTimes:
    """The layers of one row in the order of execution, or ``not_measured`` with the reason.

    Attributes:
        details: what the runtime's inspector tells; see :class:`deployfold.runtimes.layer_times`.
    """

    layers: tuple[TimedLayer, ...] = ()
    calls: int = 0
    not_measured: str | None = None
    details: Mapping[str, Any] | None = None


def layer_times(
    runner: Runner | None,
    inputs: Inputs,
    *,
    calls: int = CALLS,
    emit: Emit = ignore,
) -> LayerTimes | None:
    """Load a runner and profile it; ``None`` if its runtime never tells the time of a layer.

    Args:
        inputs: of every call.
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
    return LayerTimes(layers, calls, details=profile.details)


def _timed(one: LayerTime, modules: Modules) -> TimedLayer:
    return TimedLayer(one.name, one.kind, one.ms, modules.find(one.onnx_nodes, one.kind))
