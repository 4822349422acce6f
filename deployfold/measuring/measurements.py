"""The results of a measurement: every row's latency and outputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deployfold.runtimes.protocol import Array
from deployfold.runtimes.tensorrt_library import CudaGraph

from .conditions import Contention
from .gpu import GpuState


@dataclass(frozen=True, eq=False)
class Latency:
    """The latency of one row. Times are in milliseconds.

    Attributes:
        samples_ms: every timed call of the completed rounds, in order, none clipped, averaged or
            padded. On a GPU, the computation's time by CUDA events.
        median_ms, p90_ms, p95_ms, p99_ms: percentiles of ``samples_ms``.
        throughput: samples per second at the median: batch size / median.
        median_low_ms, median_high_ms: the 95 % interval of the median over rounds; from 0 to
            infinity for too few rounds.
        variation: coefficient of variation of ``samples_ms``.
        speedup: median of the per-round ratios baseline / row; 1 for the baseline itself, and
            ``None`` if the baseline was not measured.
        speedup_low, speedup_high: the 95 % interval of ``speedup``, see
            :func:`.stats.median_interval`.
        rounds: number of completed rounds.
        stable: whether the numbers are reliable, that is, ``note`` is ``None``.
        note: the reasons why the numbers are not reliable.
        doubts: the kinds of these reasons, see :class:`.stability.Doubt`.
        h2d_ms, d2h_ms: medians of the copies to and from the GPU; ``None`` on the CPU.
        end_to_end_ms: median of a call with these copies, by the host's clock; ``None`` on the CPU,
            where it equals the latency.
        preemptions_per_s: involuntary context switches per second while the row ran.
        other_cpus: number of CPUs that other programs kept busy during the rounds.
        graph: whether the work was launched as one CUDA graph; ``None`` on the CPU.
        gpu: the state of the GPU after the last round, by NVML; ``None`` on the CPU.
        p95_low_ms, p95_high_ms: the 95 % interval of ``p95_ms``; ``None`` for too few calls.
        overtime_s: seconds past the time limit that the least number of rounds took; ``None``
            without any.
    """

    samples_ms: NDArray[np.float64]
    median_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    throughput: float
    speedup: float | None
    speedup_low: float | None
    speedup_high: float | None
    rounds: int
    stable: bool
    note: str | None = None
    doubts: tuple[str, ...] = ()
    h2d_ms: float | None = None
    d2h_ms: float | None = None
    end_to_end_ms: float | None = None
    median_low_ms: float | None = None
    median_high_ms: float | None = None
    variation: float | None = None
    preemptions_per_s: float | None = None
    other_cpus: float | None = None
    gpu: GpuState | None = None
    graph: CudaGraph | None = None
    p95_low_ms: float | None = None
    p95_high_ms: float | None = None
    overtime_s: float | None = None

    @property
    def quantiles_ms(self) -> tuple[float, ...]:
        """``samples_ms`` at 0, 5, …, 100 %."""
        return tuple(float(one) for one in np.quantile(self.samples_ms, np.linspace(0, 1, 21)))


@dataclass(frozen=True, eq=False)
class Measured:
    """One row: its latency or the reason in ``not_measured``, its first outputs, and its notes."""

    name: str
    latency: Latency | None
    not_measured: str | None = None
    outputs: tuple[Array, ...] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Measurements:
    """All rows in their original order, and the course of the measurement.

    Attributes:
        rows: the rows.
        baseline: the name of the row that speed-ups are relative to.
        rounds: number of completed rounds.
        seconds: the time of warm-up and rounds.
        threads: torch's intra-op threads.
        converged: whether every interval reached the goal before the time limit.
        contention: the CPU time of other programs during the rounds; ``None`` if unknown.
    """

    rows: tuple[Measured, ...]
    baseline: str
    rounds: int
    seconds: float
    threads: int
    converged: bool
    contention: Contention | None = None


class MeasurementInterrupted(KeyboardInterrupt):
    """Ctrl-C during :func:`measure`; ``partial`` holds the completed rounds."""

    def __init__(self, partial: Measurements) -> None:
        super().__init__("measurement interrupted")
        self.partial = partial
