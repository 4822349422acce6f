"""Limits against rows; nothing measured is a limit missed."""

from __future__ import annotations

import pytest
from report_sample import sample_report

from deployfold.config.spec import Thresholds
from deployfold.reporting.report import Accuracy
from deployfold.reporting.thresholds import check

ROWS = sample_report().rows


@pytest.mark.parametrize(("limit", "passed"), [(2.0, True), (2.06, True), (2.1, False)])
def test_the_fastest_row_must_reach_the_speedup(limit: float, passed: bool) -> None:
    (result,) = check(ROWS, Thresholds(min_speedup=limit))
    assert (result.passed, result.value, result.row) == (passed, 2.06, "onnxruntime")


@pytest.mark.parametrize(("limit", "passed"), [(0.5, True), (0.1, False)])
def test_no_row_may_differ_by_more(limit: float, passed: bool) -> None:
    (result,) = check(ROWS, Thresholds(max_diff=limit))
    assert (result.passed, result.value, result.row) == (passed, 0.47, "onnxruntime-fp16")


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
