"""Sorting and choosing rows; the original stays first."""

from __future__ import annotations

import pytest
from report_sample import full_report, sample_report

from deployfold.errors import UsageError
from deployfold.reporting.metrics import METRICS
from deployfold.reporting.report import Report
from deployfold.reporting.select import only_rows, sorted_by


def names(report: Report) -> list[str]:
    return [row.name for row in report.rows]


def test_the_best_comes_first_after_the_original_and_the_unmeasured_last() -> None:
    report = sample_report()
    assert names(sorted_by(report, "median")) == [
        "pytorch", "onnxruntime", "folded", "torchscript", "program", "onnxruntime-fp16",
        "tensorrt-fp16",
    ]  # fmt: skip
    assert names(sorted_by(report, "speedup"))[1:3] == ["onnxruntime", "folded"]
    assert names(sorted_by(report, "sqnr"))[1] == "program", "infinite is best"
    assert names(sorted_by(report, "size"))[1] == "onnxruntime-fp16"


@pytest.mark.parametrize(
    ("older", "key"), [("median", "latency"), ("bn", "batchnorm"), ("bytes", "size")]
)
def test_older_keys_are_taken(older: str, key: str) -> None:
    assert sorted_by(sample_report(), older) == sorted_by(sample_report(), key)


@pytest.mark.parametrize("column", METRICS)
def test_every_column_keeps_every_row(column: str) -> None:
    report = full_report()
    assert sorted(names(sorted_by(report, column))) == sorted(names(report))
    assert names(sorted_by(report, column))[0] == "pytorch"


def test_only_some_rows_and_always_the_original() -> None:
    report = sample_report()
    assert names(only_rows(report, ["onnxruntime", "folded"])) == [
        "pytorch", "folded", "onnxruntime",
    ]  # fmt: skip
    assert names(only_rows(report, [])) == names(report)


def test_unknown_columns_and_rows_are_named() -> None:
    with pytest.raises(UsageError, match="no column 'speed'") as caught:
        sorted_by(sample_report(), "speed")
    assert "speedup" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="Did you mean onnxruntime") as caught:
        only_rows(sample_report(), ["onnxruntim"])
    assert "tensorrt-fp16" in (caught.value.hint or "")
