"""What a GPU's clock says of one inference; apart from the protocol, which needs torch."""

from __future__ import annotations

from dataclasses import dataclass

from deployfold.runtimes.tensorrt_library import CudaGraph


@dataclass(frozen=True)
class DeviceTimes:
    """What a GPU's own clock (CUDA events) says of one inference, in milliseconds.

    ``enqueue_ms`` is by the host's clock: how long the CPU took to launch the work. ``graph`` is of
    an engine.
    """

    compute_ms: float
    h2d_ms: float
    d2h_ms: float
    enqueue_ms: float | None = None
    graph: CudaGraph | None = None
