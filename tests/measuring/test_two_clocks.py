"""Rows timed by a GPU's clock beside rows timed by the host's clock; both clocks are scripted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scripted import INPUTS, MS, Clock, Scripted

from deployfold.measuring.latency import measure
from deployfold.measuring.measurements import Measurements
from deployfold.measuring.timed_runner import GPU_SETTLE_NS, SETTLE_NS, TimedRunner
from deployfold.runtimes.times import DeviceTimes


class OnGpu(Scripted):
    """Computes for a tenth of the time that a call takes; copies take the rest."""

    def step(self) -> DeviceTimes:
        before = self.clock.now
        super().step()
        whole = (self.clock.now - before) / MS
        return DeviceTimes(compute_ms=0.1 * whole, h2d_ms=0.4 * whole, d2h_ms=0.5 * whole)


def measured(clock: Clock, **rows: Scripted) -> Measurements:
    return measure(rows, INPUTS, max_seconds=30, clock=clock)


def test_two_clocks_are_never_divided_by_each_other() -> None:
    """Both rows take 10 ms a call; the ratio of the two clocks would be 10x."""
    clock = Clock()
    result = measured(clock, pytorch=Scripted(clock, 10 * MS), engine=OnGpu(clock, 10 * MS))
    pytorch, engine = result.rows
    assert pytorch.latency is not None
    assert engine.latency is not None
    assert (pytorch.latency.median_ms, engine.latency.median_ms) == (10.0, 1.0)
    assert pytorch.latency.speedup is not None
    assert pytorch.latency.speedup.value == 1.0
    assert engine.latency.speedup is None
    assert engine.notes == (
        "no speed-up: timed by the GPU's clock, and pytorch by the host's clock",
    )
    assert pytorch.notes == ()


def test_rows_of_one_gpu_are_compared_by_their_computing() -> None:
    clock = Clock()
    result = measured(clock, pytorch=OnGpu(clock, 10 * MS), engine=OnGpu(clock, 5 * MS))
    pytorch, engine = result.rows
    assert engine.latency is not None
    assert pytorch.latency is not None
    assert engine.latency.speedup is not None
    assert engine.latency.speedup.value == 2.0
    assert engine.notes == ()
    assert (pytorch.latency.end_to_end_ms, engine.latency.end_to_end_ms) == (10.0, 5.0)
    assert (engine.latency.median_ms, engine.latency.h2d_ms) == (0.5, 2.0)


def test_on_the_cpu_the_latency_is_the_whole_call() -> None:
    clock = Clock()
    (row,) = measured(clock, pytorch=Scripted(clock, 10 * MS)).rows
    assert row.latency is not None
    assert row.latency.end_to_end_ms is None


def test_a_gpu_works_until_its_clocks_are_up_before_it_is_timed() -> None:
    clock = Clock()
    calls: list[str] = []

    def durations() -> Iterator[int]:
        while True:
            yield MS

    for kind, settle in ((OnGpu, GPU_SETTLE_NS), (Scripted, SETTLE_NS)):
        calls.clear()
        row = TimedRunner("x", kind(clock, durations(), calls), clock)
        row.load(INPUTS)
        row.warm_up(100 * MS)
        before = len(calls)
        row.block()
        row.keep()
        timed = sum(len(block) for block in row.blocks_ms)
        assert len(calls) - before - timed == settle // MS
        assert np.isfinite(row.round_ms).all()
