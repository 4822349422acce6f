"""The reasons to doubt a row's numbers, one cause at a time."""

from __future__ import annotations

import dataclasses

import pytest

from deployfold.measuring.machine_load import Contention
from deployfold.measuring.stability import Evidence, doubts
from deployfold.measuring.stats import Interval
from deployfold.reporting.row import GpuState
from deployfold.runtimes.times import DeviceTimes

STABLE = Evidence(
    variation=0.02, interval=Interval(10.0, 9.9, 10.1), rounds=40, converged=True, threads=2
)
TIMES = DeviceTimes(compute_ms=2.0, h2d_ms=0.1, d2h_ms=0.1)
GPU = dataclasses.replace(STABLE, variation=0.005, device=TIMES)


def reason(row: Evidence, **changes: object) -> str:
    return "; ".join(one.text for one in doubts(dataclasses.replace(row, **changes)))  # type: ignore[arg-type]


def timed(**changes: float) -> DeviceTimes:
    return dataclasses.replace(TIMES, **changes)


def test_a_calm_row_has_no_doubts() -> None:
    assert doubts(STABLE) == ()
    assert doubts(dataclasses.replace(GPU, device=timed(enqueue_ms=1.0))) == ()


def test_variation_and_width() -> None:
    assert reason(STABLE, variation=0.041) == "coefficient of variation 4.1 %, above 2.5 %"
    wide = Interval(10.0, 9.0, 10.5)
    assert reason(STABLE, interval=wide, converged=False) == "time ran out at ±10 %, short of ±2 %"
    assert reason(STABLE, interval=wide) == ""


@pytest.mark.parametrize(("rounds", "word"), [(1, "1 round:"), (5, "5 rounds:")])
def test_too_few_rounds(rounds: int, word: str) -> None:
    text = reason(
        STABLE, rounds=rounds, interval=Interval(10.0, 0.0, float("inf")), converged=False
    )
    assert text.startswith(word)
    assert "too few rounds for an interval" in text
    assert "time ran out" not in text, "infinity is no width to print"


def test_two_threads_beside_a_busy_program() -> None:
    busy = {"contention": Contention(others=1.0, cpus=2), "preemptions": 264.0}
    assert reason(STABLE, **busy) == (
        "other programs took 1.0 of 2 CPUs, so its 2 threads waited for each other"
        " (264 interruptions per second); close them, or use --threads 1"
    )
    assert reason(STABLE, **{**busy, "threads": 1}) == "", "one thread has a CPU for itself"
    assert reason(STABLE, **{**busy, "preemptions": 3.0}) == ""
    assert reason(STABLE, **{**busy, "contention": None}) == ""
    crowded = {**busy, "contention": Contention(1.5, 2), "threads": 1}
    assert reason(STABLE, **crowded).endswith("interrupted it 264 times per second; close them")


def test_a_gpu_row_is_judged_by_the_gpus_clock() -> None:
    assert reason(GPU, variation=0.012) == "coefficient of variation 1.2 %, above 1 %"
    assert "launch-bound" in reason(GPU, device=timed(enqueue_ms=1.61))
    assert "inputs" in reason(GPU, device=timed(h2d_ms=2.0))
    assert "outputs" in reason(GPU, device=timed(d2h_ms=2.0))
    held = GpuState(throttled_by=("the power limit",))
    assert reason(GPU, gpu=held) == "the GPU is throttled by the power limit"
    assert reason(GPU, contention=Contention(2.0, 2), preemptions=500.0) == ""
