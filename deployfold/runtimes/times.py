"""The times of one inference by a GPU's own clock."""

from __future__ import annotations

from dataclasses import dataclass

from deployfold.runtimes.tensorrt_library import CudaGraph


@dataclass(frozen=True)
class DeviceTimes:
    """The times of one inference by a GPU's own clock (CUDA events), in milliseconds.

    Attributes:
        compute_ms: the computation.
        h2d_ms, d2h_ms: the copies of inputs to the device, and of outputs to the host.
        enqueue_ms: the time that the CPU took to launch the work, by the host's clock.
        graph: whether the work was launched as a CUDA graph; ``None`` where it is unknown.
    """

    compute_ms: float
    h2d_ms: float
    d2h_ms: float
    enqueue_ms: float | None = None
    graph: CudaGraph | None = None
