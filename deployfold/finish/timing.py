"""The latency of one engine on its device, with the statistics of :mod:`deployfold.measuring`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from deployfold.events import Emit, StageProgress, ignore
from deployfold.measuring.gpu import gpu_state
from deployfold.measuring.measurements import latency_of
from deployfold.measuring.stability import TOLERANCE, Evidence
from deployfold.measuring.stats import MIN_FOR_INTERVAL, coefficient_of_variation, median_interval
from deployfold.measuring.warm_up import warm_up
from deployfold.reporting.row import CudaGraph, GpuState, Latency
from deployfold.runtimes.times import DeviceTimes, median_times

MIN_ROUNDS = 15
"""Rounds before the interval of the median is trusted to end the measurement early."""
CALLS = 20
"""Calls in a round of a fast engine. The interval of the median is that of the rounds' medians."""
SEED = 0


def time_engine(
    step: Callable[[], DeviceTimes],
    batch: int,
    *,
    max_seconds: float = 10.0,
    gpu: str | None = None,
    emit: Emit = ignore,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Warm up, then run rounds of calls until the median is known to 2 % or the time is over.

    The latency is the engine's time by the GPU's clock, as in every GPU row. All samples count.

    Args:
        batch: samples per call, for the throughput.
        max_seconds: the time limit of the rounds. The first ``MIN_FOR_INTERVAL`` rounds always
            complete, because fewer rounds have no interval. A slow engine has fewer calls per
            round.
        gpu: the UUID of the GPU, to read its clocks.
        emit: called with a ``StageProgress`` of the stage ``measure`` for each round.
        clock: returns the time in seconds.
    """
    emit(StageProgress("measure", "warming up"))
    calls = warm_up(step, max_seconds, CALLS, clock)
    times: list[DeviceTimes] = []
    medians: list[float] = []
    converged, start = False, clock()
    while not converged and (len(medians) < MIN_FOR_INTERVAL or clock() - start < max_seconds):
        round_ = [step() for _ in range(calls)]
        times += round_
        medians.append(statistics.median(one.compute_ms for one in round_))
        emit(
            StageProgress("measure", f"round {len(medians)}", _share(clock() - start, max_seconds))
        )
        if len(medians) >= MIN_ROUNDS:
            converged = median_interval(medians, SEED).relative_half_width <= TOLERANCE
    state = gpu_state(gpu) if gpu is not None else None
    return _latency(times, medians, batch, converged, state)


def _latency(
    times: list[DeviceTimes],
    medians: list[float],
    batch: int,
    converged: bool,
    state: GpuState | None,
) -> Latency:
    samples = np.array([one.compute_ms for one in times])
    interval = median_interval(medians, SEED)
    device = median_times(times)
    evidence = Evidence(
        variation=coefficient_of_variation(samples),
        interval=interval,
        rounds=len(medians),
        converged=converged,
        threads=1,
        compute_ms=device.compute_ms,
        h2d_ms=device.h2d_ms,
        d2h_ms=device.d2h_ms,
        enqueue_ms=device.enqueue_ms,
        gpu=state,
    )
    graph = None if device.graph is None else CudaGraph.model_validate(device.graph)
    # The original was not run on this machine, so there is no speed-up.
    return latency_of(samples, interval, evidence, batch, speedup=None, graph=graph)


def _share(part: float, whole: float) -> float:
    return min(1.0, part / whole) if whole > 0 else 1.0
