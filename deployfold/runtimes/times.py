"""The times of one inference by a GPU's own clock."""

from __future__ import annotations

from dataclasses import dataclass

from deployfold.runtimes.tensorrt_library import CudaGraph


@dataclass(frozen=True)
class DeviceTimes:
    """The times of one inference by a GPU's own clock (CUDA events), in milliseconds.

    ``enqueue_ms`` is by the host's clock: how long the CPU took to launch the work. ``graph`` is of
    an engine.
    """

    compute_ms: float
    h2d_ms: float
    d2h_ms: float
    enqueue_ms: float | None = None
    graph: CudaGraph | None = None
