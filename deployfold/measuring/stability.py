"""Decides whether a row's numbers are reliable, and says what to do if they are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deployfold.reporting.conditions import SLACK, fitting_threads
from deployfold.reporting.intervals import MIN_FOR_INTERVAL
from deployfold.reporting.row import GpuState
from deployfold.runtimes.times import DeviceTimes

from .machine_load import Contention
from .stats import Interval

MAX_VARIATION = 0.025
"""The coefficient of variation (standard deviation over mean) above which a CPU row is unstable."""
MAX_GPU_VARIATION = 0.01
"""The limit for times by CUDA events, as ``kUNSTABLE_PERF_REPORTING_THRESHOLD`` of trtexec."""
ENQUEUE_SHARE = 0.8
"""Ratio of launch time to GPU time from which a row is launch-bound; trtexec has the same limit."""
PREEMPTIONS_PER_SECOND = 20.0
"""Rate above which threads share their CPUs. A thread alone on its CPU is preempted a few times per
second. Two torch threads and one busy process on two CPUs are preempted 160 to 270 times per second
(measured)."""


TOLERANCE = 0.02
"""The goal for half the interval of a speed-up or of a time, relative to its value."""


@dataclass(frozen=True)
class Evidence:
    """The facts about a row from which its reliability is judged.

    Attributes:
        variation: coefficient of variation of the calls.
        interval: the interval of the speed-up, or of the time without a comparable baseline.
        rounds: number of completed rounds.
        converged: whether the measurement reached its goal before the time limit.
        threads: number of CPU threads.
        preemptions: involuntary context switches per second during the calls.
        contention: the CPU time of other programs meanwhile; ``None`` if unknown.
        device: the medians of a GPU row; ``None`` on the CPU.
        gpu: the state of the GPU after the last round.
    """

    variation: float
    interval: Interval
    rounds: int
    converged: bool
    threads: int
    preemptions: float = 0.0
    contention: Contention | None = None
    device: DeviceTimes | None = None
    gpu: GpuState | None = None


@dataclass(frozen=True)
class Doubt:
    """A reason to doubt a row's numbers: its kind, and a sentence for the user."""

    kind: Literal["rounds", "contended", "launch", "transfer", "throttled", "variation", "time"]
    text: str


def doubts(row: Evidence) -> tuple[Doubt, ...]:
    """Reasons to doubt the row's numbers, the gravest first; empty if they are stable."""
    found = []
    if not row.interval.bounded:
        plural = "" if row.rounds == 1 else "s"
        text = (
            f"{row.rounds} round{plural}: too few rounds for an interval"
            f" (at least {MIN_FOR_INTERVAL}); allow more time with --max-seconds"
        )
        found.append(Doubt("rounds", text))
    found.extend(_contended(row) if row.device is None else _gpu(row.device, row.gpu))
    limit = MAX_VARIATION if row.device is None else MAX_GPU_VARIATION
    if row.variation > limit:
        text = f"coefficient of variation {_percent(row.variation)}, above {_percent(limit)}"
        found.append(Doubt("variation", text))
    width = row.interval.relative_half_width
    if row.interval.bounded and not row.converged and width > TOLERANCE:
        text = f"time ran out at ±{_percent(width)}, short of ±{_percent(TOLERANCE)}"
        found.append(Doubt("time", text))
    return tuple(found)


def _contended(row: Evidence) -> list[Doubt]:
    """A reason if the row's threads had to share their CPUs with other programs.

    The threads of an operator wait for each other at its end. If one thread loses its CPU for a
    scheduler's time slice (4 ms or more), a net of 0.5 ms can take a hundred times as long, and the
    measured time is not that of the net.
    """
    if row.preemptions < PREEMPTIONS_PER_SECOND:
        return []
    taken = row.contention
    if taken is None or row.threads <= taken.cpus - taken.others + SLACK:
        return []
    others = f"other programs took {taken.others:.1f} of {taken.cpus} CPUs"
    if row.threads == 1:
        text = f"{others} and interrupted it {row.preemptions:.0f} times per second; close them"
        return [Doubt("contended", text)]
    fit = fitting_threads(taken.cpus, taken.others)
    text = (
        f"{others}, so its {row.threads} threads waited for each other"
        f" ({row.preemptions:.0f} interruptions per second); close them, or use --threads {fit}"
    )
    return [Doubt("contended", text)]


def _gpu(times: DeviceTimes, gpu: GpuState | None) -> list[Doubt]:
    found = []
    if times.enqueue_ms is not None and times.enqueue_ms > ENQUEUE_SHARE * times.compute_ms:
        text = "launch-bound: the CPU launches no faster than the GPU computes"
        found.append(Doubt("launch", text))
    for copied, ms in (("inputs", times.h2d_ms), ("outputs", times.d2h_ms)):
        if ms >= times.compute_ms:
            text = f"transfer-bound: copying the {copied} takes as long as computing"
            found.append(Doubt("transfer", text))
    if gpu is not None and gpu.throttled_by:
        text = f"the GPU is throttled by {' and '.join(gpu.throttled_by)}"
        found.append(Doubt("throttled", text))
    return found


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
