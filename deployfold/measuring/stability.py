"""Whether a row's numbers can be relied on, and what to do where they cannot."""

from __future__ import annotations

from dataclasses import dataclass

from .conditions import SLACK, Contention
from .gpu import GpuState
from .stats import MIN_FOR_INTERVAL, Interval

MAX_VARIATION = 0.025
"""The coefficient of variation (standard deviation over mean) above which a CPU row is unstable."""
MAX_GPU_VARIATION = 0.01
"""The same for times by CUDA events; trtexec's limit (``kUNSTABLE_PERF_REPORTING_THRESHOLD``)."""
ENQUEUE_SHARE = 0.8
"""The share of the GPU's time from which launching the work bounds it; trtexec's limit."""
PREEMPTIONS_PER_SECOND = 20.0
"""A thread alone on its CPU is preempted a few times a second. Measured here: two torch threads
beside one busy process on two CPUs lose theirs 160 to 270 times a second."""


@dataclass(frozen=True)
class Evidence:
    """The evidence that a measurement has of one row.

    Attributes:
        variation: coefficient of variation of its calls.
        interval: of its speed-up, or of its time where there is nothing to compare it with.
        rounds: completed rounds.
        converged: the measurement reached its goal before the time was up.
        tolerance: the goal, half the interval relative to its value.
        threads: CPU threads of the row.
        preemptions: involuntary context switches a second during its calls.
        contention: what other programs took meanwhile; ``None`` where that cannot be told.
        compute_ms, h2d_ms, d2h_ms, enqueue_ms: medians of a GPU row; ``None`` on the CPU.
        gpu: the GPU after the last round.
    """

    variation: float
    interval: Interval
    rounds: int
    converged: bool
    tolerance: float
    threads: int
    preemptions: float = 0.0
    contention: Contention | None = None
    compute_ms: float | None = None
    h2d_ms: float | None = None
    d2h_ms: float | None = None
    enqueue_ms: float | None = None
    gpu: GpuState | None = None


def doubts(row: Evidence) -> tuple[str, ...]:
    """Reasons to doubt the row's numbers, the gravest first; empty if they are stable."""
    found = []
    if not row.interval.bounded:
        plural = "" if row.rounds == 1 else "s"
        found.append(
            f"{row.rounds} round{plural}: too few rounds for an interval"
            f" ({MIN_FOR_INTERVAL} at the least); allow more time with --max-seconds"
        )
    found.extend(_contended(row) if row.compute_ms is None else _gpu(row))
    limit = MAX_VARIATION if row.compute_ms is None else MAX_GPU_VARIATION
    if row.variation > limit:
        found.append(f"coefficient of variation {_percent(row.variation)}, above {_percent(limit)}")
    width = row.interval.relative_half_width
    if row.interval.bounded and not row.converged and width > row.tolerance:
        found.append(f"time ran out at ±{_percent(width)}, short of ±{_percent(row.tolerance)}")
    return tuple(found)


def _contended(row: Evidence) -> list[str]:
    """Whether the row's threads had to share their CPUs with other programs.

    Two threads of an operator wait for each other at its end, so one of them losing its CPU for a
    scheduler's time slice (4 ms and more) costs a net of 0.5 ms a hundred times its latency: that
    is measured, and it is not the net.
    """
    if row.preemptions < PREEMPTIONS_PER_SECOND:
        return []
    taken = row.contention
    if taken is None or row.threads <= taken.cpus - taken.others + SLACK:
        return []
    others = f"other programs took {taken.others:.1f} of {taken.cpus} CPUs"
    if row.threads == 1:
        return [f"{others} and interrupted it {row.preemptions:.0f} times a second; close them"]
    fit = taken.threads_that_fit()
    return [
        f"{others}, so its {row.threads} threads waited for each other"
        f" ({row.preemptions:.0f} interruptions a second); close them, or use --threads {fit}"
    ]


def _gpu(row: Evidence) -> list[str]:
    compute = row.compute_ms or 0.0
    found = []
    if row.enqueue_ms is not None and row.enqueue_ms > ENQUEUE_SHARE * compute:
        found.append("launch-bound: the CPU launches no faster than the GPU computes")
    if row.h2d_ms is not None and row.h2d_ms >= compute:
        found.append("transfer-bound: copying the inputs takes as long as computing")
    if row.d2h_ms is not None and row.d2h_ms >= compute:
        found.append("transfer-bound: copying the outputs takes as long as computing")
    if row.gpu is not None and row.gpu.throttled_by:
        found.append(f"the GPU's clocks are held down by {' and '.join(row.gpu.throttled_by)}")
    return found


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
