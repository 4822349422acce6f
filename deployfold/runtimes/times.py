"""The times of one inference by a GPU's own clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .tensorrt_library import CudaGraph

if TYPE_CHECKING:
    from .cuda import Cuda


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


def median_times(times: Sequence[DeviceTimes]) -> DeviceTimes:
    """The median of each time, and how the last inference was launched."""
    launches = [one.enqueue_ms for one in times if one.enqueue_ms is not None]
    return DeviceTimes(
        compute_ms=statistics.median(one.compute_ms for one in times),
        h2d_ms=statistics.median(one.h2d_ms for one in times),
        d2h_ms=statistics.median(one.d2h_ms for one in times),
        enqueue_ms=statistics.median(launches) if launches else None,
        graph=times[-1].graph,
    )


class Timeline:
    """Times the parts of an inference on one stream, by events between them.

    Args:
        cuda: the device; it must outlive this object.
    """

    def __init__(self, cuda: Cuda, stream: int) -> None:
        self._cuda, self._stream = cuda, stream
        self._events = tuple(cuda.event() for _ in range(4))

    def run(
        self, copy_in: Callable[[], None], work: Callable[[], None], copy_out: Callable[[], None]
    ) -> DeviceTimes:
        """Enqueue the three parts, and wait for the end of the last."""
        cuda, stream = self._cuda, self._stream
        begin, copied, computed, end = self._events
        cuda.call("cuEventRecord", begin, stream)
        copy_in()
        cuda.call("cuEventRecord", copied, stream)
        start = time.perf_counter()
        work()
        launched = time.perf_counter()
        cuda.call("cuEventRecord", computed, stream)
        copy_out()
        cuda.call("cuEventRecord", end, stream)
        cuda.call("cuStreamSynchronize", stream)
        return DeviceTimes(
            compute_ms=cuda.elapsed_ms(copied, computed),
            h2d_ms=cuda.elapsed_ms(begin, copied),
            d2h_ms=cuda.elapsed_ms(computed, end),
            enqueue_ms=1e3 * (launched - start),
        )

    def close(self) -> None:
        """Free the events."""
        for event in self._events:
            self._cuda.call("cuEventDestroy_v2", event)
        self._events = ()
