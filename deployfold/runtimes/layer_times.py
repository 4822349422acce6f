"""The time of each layer of a file in its runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from .protocol import Inputs

WARM_UP = 5
"""Calls before the first that counts."""


@dataclass(frozen=True)
class LayerTime:
    """A layer as a runtime executes it: one kernel, or several that the runtime reports as one.

    Attributes:
        name: the runtime's own name.
        kind: the operator or the layer type, as the runtime names it.
        ms: the median over the calls, in milliseconds.
        onnx_nodes: names of the ONNX nodes that it computes, or of values that it produces.
    """

    name: str
    kind: str
    ms: float
    onnx_nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Profile:
    """The layers of a file in the order of execution.

    Attributes:
        details: what else the runtime tells, in the form of TensorRT's engine inspector: an object
            with the key ``Layers``; ``None`` where it tells nothing.
    """

    layers: tuple[LayerTime, ...]
    details: dict[str, Any] | None = None


@runtime_checkable
class LayerProfiler(Protocol):
    """A runner whose runtime tells the time of each layer."""

    @property
    def onnx(self) -> Path | None:
        """The ONNX that the layers come from, which names their modules."""

    def profile(self, inputs: Inputs, calls: int) -> Profile:
        """Run ``calls`` inferences and return the time of each layer.

        The runner must be loaded. A profiled call is slower than a usual one.

        Raises:
            MeasureError: the runtime cannot tell the times here, or does not take these inputs.
        """
