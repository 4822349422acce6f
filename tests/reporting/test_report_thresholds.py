"""Limits against rows; nothing measured is a limit missed."""

from __future__ import annotations

import pytest
from report_sample import sample_report

from deployfold.config.thresholds import Thresholds
from deployfold.reporting.row import Accuracy, Speedup
from deployfold.reporting.thresholds import check

ROWS = sample_report().rows


@pytest.mark.parametrize(("limit", "passed"), [(2.0, True), (2.06, True), (2.1, False)])
def test_the_fastest_row_must_reach_the_speedup(limit: float, passed: bool) -> None:
    (result,) = check(ROWS, Thresholds(min_speedup=limit))
    assert (result.passed, result.value, result.row) == (passed, 2.06, "onnxruntime")


@pytest.mark.parametrize(("limit", "passed"), [(0.5, True), (0.1, False)])
def test_no_row_may_differ_by_more(limit: float, passed: bool) -> None:
    (result,) = check(ROWS[:-1], Thresholds(max_diff=limit))
    assert (result.passed, result.value, result.row) == (passed, 0.47, "onnxruntime-fp16")


def test_a_row_that_never_ran_does_not_keep_a_limit_on_every_row() -> None:
    (result,) = check(ROWS, Thresholds(max_diff=0.5))
    assert (result.passed, result.value, result.row) == (False, None, "tensorrt-fp16")
    (result,) = check(ROWS, Thresholds(max_diff=0.1))
    assert (result.value, result.row) == (0.47, "onnxruntime-fp16"), "the measured miss comes first"


def test_a_limit_that_names_its_row_is_about_that_row_alone() -> None:
    limits = Thresholds(
        max_diff_of=(("onnxruntime", 0.5), ("onnxruntime-fp16", 0.1), ("tensorrt-fp16", 9.0)),
        min_speedup_of=(("onnxruntime", 2.0), ("folded", 2.0), ("tensorrt-fp16", 0.1)),
    )
    results = check(ROWS, limits)
    assert [one.passed for one in results] == [True, False, False, True, False, False]
    assert [one.name for one in results] == ["max-diff-of"] * 3 + ["min-speedup-of"] * 3


def test_a_speedup_of_one_round_keeps_no_limit() -> None:
    row = ROWS[4]
    assert row.latency is not None
    few = Speedup(value=50.0, low=0.0, high=float("inf"))
    latency = row.latency.model_copy(update={"speedup": few, "rounds": 1})
    rows = (ROWS[0], row.model_copy(update={"latency": latency}))
    limits = Thresholds(min_speedup=5.0, min_speedup_of=(("onnxruntime", 5.0),))
    assert [(one.passed, one.value) for one in check(rows, limits)] == [(False, None)] * 2


def test_a_nan_difference_is_never_within_a_limit() -> None:
    nan = ROWS[1].model_copy(
        update={"accuracy": Accuracy(max_abs_diff=float("nan"), sqnr_db=float("nan"))}
    )
    for rows in ((*ROWS, nan), (nan, *ROWS)):
        assert not check(rows, Thresholds(max_diff=1e9))[0].passed


def test_latency_limits_by_row_name() -> None:
    limits = Thresholds(
        max_latency_ms=(("onnxruntime", 30.0), ("folded", 50.0), ("tensorrt-fp16", 1.0), ("x", 1.0))
    )
    results = check(ROWS, limits)
    assert [result.passed for result in results] == [True, False, False, False]
    assert [result.value for result in results] == [29.66, 55.91, None, None]


def test_without_measurements_the_limits_are_missed() -> None:
    bare = tuple(row.model_copy(update={"latency": None, "accuracy": None}) for row in ROWS)
    results = check(bare, Thresholds(min_speedup=1.0, max_diff=1.0))
    assert [result.passed for result in results] == [False, False]
    assert check(ROWS, Thresholds()) == ()
