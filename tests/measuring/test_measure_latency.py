"""The measurement's logic on a clock that only the runners advance, and once on the real one."""

from __future__ import annotations

import gc
import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis_examples import examples
from scripted import INPUTS, MS, Clock, Scripted

from deployfold.errors import MeasureError
from deployfold.events import Event, StageProgress
from deployfold.measuring.latency import measure
from deployfold.measuring.measurements import Measured, MeasurementInterrupted, Measurements
from deployfold.reporting.intervals import MIN_FOR_INTERVAL
from deployfold.reporting.row import Speedup
from deployfold.runtimes.eager import EagerRunner
from deployfold.runtimes.protocol import DeviceTimes


def go(clock: Clock, runners: dict[str, Scripted], **options: object) -> Measurements:
    for name, runner in runners.items():
        runner.name = name
    return measure(runners, INPUTS, clock=clock, **options)  # type: ignore[arg-type]


def latencies(measurements: Measurements) -> dict[str, Measured]:
    return {row.name: row for row in measurements.rows}


def test_constant_rows_converge_to_the_exact_ratio() -> None:
    clock = Clock()
    result = go(clock, {"base": Scripted(clock, 30 * MS), "fast": Scripted(clock, 10 * MS)})
    base, fast = (row.latency for row in result.rows)
    assert base is not None
    assert fast is not None
    assert fast.speedup == Speedup(value=3.0, low=3.0, high=3.0)
    assert base.speedup == Speedup(value=1.0, low=1.0, high=1.0)
    assert fast.median_ms == fast.p99_ms == 10.0
    assert fast.throughput == pytest.approx(4 / 0.010)  # a batch of 4
    assert result.converged
    assert fast.stable
    assert 15 <= result.rounds <= 20
    assert fast.samples == result.rounds


def test_drift_that_hits_all_rows_leaves_the_ratio_alone() -> None:
    clock = Clock()

    def drifting(ms: float) -> Iterator[int]:
        while True:
            yield int(ms * MS * (1 + clock.now / 1e9))  # twice as slow after a second

    result = go(
        clock,
        {"base": Scripted(clock, drifting(20)), "same": Scripted(clock, drifting(20))},
        max_seconds=1e3,
    )
    same = latencies(result)["same"].latency
    assert same is not None
    assert same.speedup is not None
    assert same.speedup.undecided
    assert not same.stable  # the absolute times did drift, and it says so
    assert "coefficient of variation" in (same.note or "")


def test_the_speedup_is_the_median_of_ratios_within_a_round() -> None:
    clock = Clock()
    rng = np.random.default_rng(0)
    common = rng.lognormal(sigma=1.0, size=5000)  # load that changes wildly from round to round
    order: list[str] = []

    def loaded(ms: float) -> Iterator[int]:
        while True:
            yield int(ms * MS * common[len(order) // 4])  # 2 rows with 2 calls a round

    runners = {
        "base": Scripted(clock, loaded(60), order),
        "row": Scripted(clock, loaded(20), order),
    }
    result = go(clock, runners, max_seconds=1e4)
    row = latencies(result)["row"].latency
    assert row is not None
    # Warm-up shifts the pairing of the common load, so not every round is exact; the median is.
    assert row.speedup is not None
    assert row.speedup.value == pytest.approx(3.0, rel=0.02)


def test_every_round_runs_every_row_and_the_order_changes() -> None:
    clock, calls = Clock(), []  # type: tuple[Clock, list[str]]
    rows = {name: Scripted(clock, 10 * MS, calls) for name in ("a", "b", "c")}
    result = go(clock, rows)
    # A block is one untimed and one timed call of the same row.
    blocks = calls[len(calls) - result.rounds * 6 :: 2]
    assert blocks == calls[len(calls) - result.rounds * 6 + 1 :: 2]
    rounds = [tuple(blocks[i : i + 3]) for i in range(0, len(blocks), 3)]
    assert all(set(round_) == {"a", "b", "c"} for round_ in rounds)
    assert len(set(rounds)) > 1


def test_the_seed_fixes_the_order() -> None:
    def calls(seed: int) -> list[str]:
        clock, log = Clock(), []  # type: tuple[Clock, list[str]]
        go(clock, {name: Scripted(clock, 10 * MS, log) for name in "abcd"}, seed=seed)
        return log

    assert calls(1) == calls(1)
    assert calls(1) != calls(2)


def test_a_fast_row_runs_in_blocks_and_every_call_is_a_sample() -> None:
    clock = Clock()
    result = go(clock, {"base": Scripted(clock, 10 * MS), "fast": Scripted(clock, 100_000)})
    fast = latencies(result)["fast"].latency
    assert fast is not None
    assert fast.samples == 10 * result.rounds
    assert fast.median_ms == pytest.approx(0.1)
    assert fast.speedup is not None
    assert fast.speedup.value == pytest.approx(100.0)


def test_a_slow_outlier_stays_in_the_tail() -> None:
    clock = Clock()
    spiky = itertools.cycle([10 * MS] * 19 + [100 * MS])
    result = go(clock, {"base": Scripted(clock, spiky)}, max_seconds=5)
    base = result.rows[0].latency
    assert base is not None
    assert base.quantiles_ms[-1] == 100.0
    assert base.p99_ms > base.median_ms == 10.0


def test_the_measurement_ends_at_the_time_limit_and_reports_the_interval() -> None:
    clock = Clock()
    rng = np.random.default_rng(0)
    noisy = (int(x * MS) for x in 10 * rng.lognormal(sigma=1, size=100_000))
    result = go(
        clock, {"base": Scripted(clock, 10 * MS), "noisy": Scripted(clock, noisy)}, max_seconds=2.0
    )
    row = latencies(result)["noisy"].latency
    assert row is not None
    assert not result.converged
    assert not row.stable
    assert "time ran out at ±" in (row.note or "")
    assert 2.0 <= result.seconds < 2.5


@given(
    st.lists(st.integers(0, 3_000 * MS), min_size=1, max_size=4), st.floats(0, 1), st.integers(0, 3)
)
@settings(max_examples=examples(8))
def test_the_measurement_always_has_rounds_enough_for_an_interval(
    durations: list[int], max_seconds: float, seed: int
) -> None:
    clock = Clock()
    runners = {str(i): Scripted(clock, max(ns, 100_000)) for i, ns in enumerate(durations)}
    result = go(clock, runners, max_seconds=max_seconds, seed=seed)
    assert result.rounds >= MIN_FOR_INTERVAL
    longest = sum(2 * max(d, 5 * MS) + MS for d in durations) / 1e9
    warm_up = sum(3 * d for d in durations) / 1e9 + 0.1 * max_seconds + max(durations) / 1e9
    least = warm_up + MIN_FOR_INTERVAL * longest
    assert result.seconds <= max(max_seconds, least) + longest + 0.01
    for row in result.rows:
        assert row.latency is not None
        assert row.latency.samples % result.rounds == 0


@pytest.mark.parametrize("rounds", [1, 5])
def test_too_few_rounds_have_no_interval_and_are_not_stable(rounds: int) -> None:
    clock = Clock()
    rows = {"base": Scripted(clock, 400 * MS), "fast": Scripted(clock, 200 * MS)}
    # Warm-up takes 1.8 s, and a round 1.2 s.
    result = go(clock, rows, max_seconds=1.8 + 1.2 * rounds, min_rounds=1)
    assert result.rounds == rounds
    for row in result.rows:
        assert row.latency is not None
        assert not row.latency.stable
        assert f"{rounds} round" in (row.latency.note or "")
        assert "too few rounds for an interval" in (row.latency.note or "")
    fast = latencies(result)["fast"].latency
    assert fast is not None
    assert fast.speedup == Speedup(value=2.0, low=0.0, high=math.inf)
    assert (fast.median_low_ms, fast.median_high_ms) == (0.0, math.inf)


def test_the_medians_interval_is_of_the_rows_own_times() -> None:
    clock = Clock()
    rng = np.random.default_rng(0)
    noisy = (int(x * MS) for x in 10 * rng.lognormal(sigma=0.1, size=100_000))
    result = go(
        clock, {"base": Scripted(clock, 20 * MS), "row": Scripted(clock, noisy)}, max_seconds=20
    )
    row = latencies(result)["row"].latency
    assert row is not None
    assert row.median_low_ms is not None
    assert row.median_high_ms is not None
    assert 9.5 < row.median_low_ms < row.median_ms < row.median_high_ms < 10.5
    assert row.variation == pytest.approx(0.1, abs=0.03)


def test_a_round_cut_off_by_the_time_is_dropped_for_all_rows() -> None:
    clock = Clock()
    result = go(
        clock, {"a": Scripted(clock, 100 * MS), "b": Scripted(clock, 130 * MS)}, max_seconds=2.0
    )
    counts = {row.latency.samples for row in result.rows if row.latency is not None}
    assert counts == {result.rounds}


def test_the_time_limit_is_checked_before_every_block() -> None:
    clock = Clock()
    rows = {name: Scripted(clock, 500 * MS) for name in "abcd"}
    # Warm-up takes 6 s, a round 4 s; the second is cut off after two blocks.
    result = go(clock, rows, max_seconds=12.0, min_rounds=1)
    assert (result.rounds, result.seconds) == (1, 12.0)


def test_rounds_for_an_interval_run_past_the_time_limit_and_every_row_reports_it() -> None:
    clock = Clock()
    rows = {"base": Scripted(clock, 400 * MS), "fast": Scripted(clock, 200 * MS)}
    # Warm-up takes 1.8 s, and a round 1.2 s.
    result = go(clock, rows, max_seconds=3.0)
    assert (result.rounds, result.seconds) == (6, 9.0)
    for row in result.rows:
        assert row.latency is not None
        assert row.latency.overtime_s == 6.0
    fast = latencies(result)["fast"].latency
    assert fast is not None
    assert fast.speedup == Speedup(value=2.0, low=2.0, high=2.0)
    in_time = go(clock, rows, max_seconds=20.0)
    assert all(row.latency and row.latency.overtime_s is None for row in in_time.rows)


def test_the_tail_has_an_interval_of_its_own() -> None:
    clock = Clock()
    rng = np.random.default_rng(0)
    noisy = (int(x * MS) for x in 10 * rng.lognormal(sigma=0.1, size=100_000))
    rows = {"base": Scripted(clock, 20 * MS), "row": Scripted(clock, noisy)}
    row = latencies(go(clock, rows, max_seconds=30))["row"].latency
    assert row is not None
    assert row.median_high_ms is not None
    assert row.p95_low_ms is not None
    assert row.p95_high_ms is not None
    assert row.median_high_ms < row.p95_low_ms < row.p95_ms < row.p95_high_ms
    short = latencies(go(clock, rows, max_seconds=0.1))["row"].latency
    assert short is not None
    assert short.p95_low_ms is short.p95_high_ms is None, "6 calls tell nothing about the tail"


@pytest.mark.parametrize("fails_at", [1, 8, 25])
def test_a_failing_row_does_not_stop_the_others(fails_at: int) -> None:
    clock = Clock()
    rows = {name: Scripted(clock, 10 * MS) for name in ("base", "bad", "good")}
    rows["bad"].fails_at = fails_at
    result = latencies(go(clock, rows))
    assert result["bad"].latency is None
    assert (result["bad"].not_measured or "").startswith("RuntimeError: first line")
    assert "second" not in (result["bad"].not_measured or "")
    good = result["good"].latency
    assert good is not None
    assert good.speedup is not None
    assert good.speedup.value == 1.0
    assert all(runner.closed for runner in rows.values())


def test_without_the_baseline_rows_keep_their_times_and_have_no_speedup() -> None:
    clock = Clock()
    rows = {"base": Scripted(clock, MS), "row": Scripted(clock, 10 * MS)}
    rows["base"].fails_at = 1
    row = latencies(go(clock, rows))["row"].latency
    assert row is not None
    assert row.median_ms == 10.0
    assert row.speedup is None


@pytest.mark.parametrize("after", [1, 40])
def test_ctrl_c_closes_the_runners_and_carries_what_was_measured(after: int) -> None:
    clock = Clock()
    rows = {name: Scripted(clock, 10 * MS) for name in ("base", "row")}
    rows["row"].fails_at, rows["row"].error = after, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as caught:
        go(clock, rows)
    assert all(runner.closed for runner in rows.values())
    assert gc.isenabled()
    assert isinstance(caught.value, MeasurementInterrupted)
    partial = caught.value.partial
    if after == 1:
        assert all(row.not_measured for row in partial.rows)
    else:
        assert partial.rounds > 5
        assert all(row.latency is not None for row in partial.rows)


def test_progress_is_reported_and_never_exceeds_one() -> None:
    clock = Clock()
    events: list[Event] = []
    go(clock, {"base": Scripted(clock, 100 * MS)}, emit=events.append, max_seconds=3.0)
    progress = [event for event in events if isinstance(event, StageProgress)]
    fractions = [event.fraction for event in progress if event.fraction is not None]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] <= fractions[-1] <= 1
    assert progress[0].detail == "loading base"
    assert progress[-1].detail.startswith("round ")


def test_garbage_collection_is_off_while_timing_and_threads_are_put_back() -> None:
    clock = Clock()
    seen: list[tuple[bool, int]] = []

    class Watcher(Scripted):
        def step(self) -> None:
            seen.append((gc.isenabled(), torch.get_num_threads()))
            super().step()

    before = torch.get_num_threads()
    go(clock, {"base": Watcher(clock, 10 * MS)}, threads=1)
    assert seen[-1] == (False, 1)
    assert (gc.isenabled(), torch.get_num_threads()) == (True, before)


def test_a_device_clock_is_used_and_its_copies_are_kept_apart() -> None:
    clock = Clock()

    class Gpu(Scripted):
        def step(self) -> DeviceTimes:
            super().step()
            return DeviceTimes(compute_ms=2.0, h2d_ms=0.5, d2h_ms=0.25, enqueue_ms=1.9)

    row = latencies(go(clock, {"base": Scripted(clock, 10 * MS), "gpu": Gpu(clock, 4 * MS)}))["gpu"]
    assert row.latency is not None
    assert row.latency.median_ms == 2.0
    assert row.latency.speedup is None, "the baseline is timed by another clock"
    assert (row.latency.h2d_ms, row.latency.d2h_ms) == (0.5, 0.25)
    assert not row.latency.stable
    assert "launch-bound" in (row.latency.note or "")


def test_wrong_calls_are_errors() -> None:
    with pytest.raises(MeasureError, match="nothing to measure"):
        measure({}, INPUTS)


def test_a_model_with_eight_times_the_work_measures_as_slower() -> None:
    def net(layers: int) -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(
            *(torch.nn.Conv2d(16, 16, 3, padding=1) for _ in range(layers))
        ).eval()

    build: Callable[[int], EagerRunner] = lambda layers: EagerRunner(net(layers))  # noqa: E731
    result = measure(
        {"small": build(2), "large": build(16)},
        (torch.randn(1, 16, 64, 64),),
        threads=1,
        max_seconds=3.0,
    )
    large = latencies(result)["large"].latency
    assert large is not None
    assert large.speedup is not None
    assert large.speedup.high < 0.7
