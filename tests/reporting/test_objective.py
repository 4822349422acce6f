"""``--choose``: the best file by latency, throughput or size that keeps accuracy and limits."""

from __future__ import annotations

from typing import Any

import pytest
from report_sample import latency

from deployfold.reporting.layers import QuantizationSummary
from deployfold.reporting.objective import choose_by
from deployfold.reporting.report import ThresholdResult
from deployfold.reporting.row import Accuracy, BatchPoint, Row


def _row(name: str, ms: float | None, size: int, sqnr: float | None = 100.0, **more: Any) -> Row:
    accuracy = None if sqnr is None else Accuracy(max_abs_diff=0.0, sqnr_db=sqnr)
    return Row(
        name=name, title=name.upper(), artifact=f"{name}.onnx", bytes=size, accuracy=accuracy,
        latency=None if ms is None else latency(ms, (1, 1, 1)),
        not_measured=None if ms is not None else "no GPU", **more,
    )  # fmt: skip


BASE = Row(name="pytorch", title="PyTorch", latency=latency(9.0, (1, 1, 1)))
FAST, SMALL, WRONG, LATER = (
    _row("fast", 2.0, 900),
    _row("small", 3.0, 500),
    _row("wrong", 1.0, 100, sqnr=12.0),
    _row("later", None, 300),
)
ROWS = (BASE, FAST, SMALL, WRONG, LATER)


@pytest.mark.parametrize(
    ("by", "best", "second"),
    [("latency", "fast", "small"), ("throughput", "fast", "small"), ("size", "later", "small")],
)
def test_the_best_and_the_next(by: str, best: str, second: str) -> None:
    found = choose_by(by, ROWS)
    assert (found.row, found.file, found.runner_up) == (best, f"{best}.onnx", second)
    assert found.sentence.startswith(f"Best by {by}: {best.upper()}, ")
    assert ("not measured here: LATER" in found.sentence) == (by != "size")


def test_a_sweep_can_decide_the_throughput():
    point = BatchPoint(batch=8, median_ms=4.0, throughput=2000.0)
    swept = SMALL.model_copy(update={"sweep": (point,)})
    assert choose_by("throughput", (BASE, FAST, swept)).row == "small"
    assert choose_by("latency", (BASE, FAST, swept)).row == "fast"


def test_limits_and_calibration_take_rows_out():
    missed = ThresholdResult(name="max-latency-ms", limit=1, value=2.0, row="fast", passed=False)
    assert choose_by("latency", ROWS, [missed]).row == "small"
    guessed = QuantizationSummary(
        precision="int8", quantized_macs_share=1.0, calibrated=False, layers=()
    )
    tiny = _row("tiny", 1.0, 10, quantization=guessed)
    assert choose_by("size", (BASE, tiny, SMALL)).row == "small"


def test_nothing_to_choose_says_why():
    found = choose_by("latency", (BASE, WRONG))
    assert (found.row, found.file) == (None, None)
    assert "none keeps the accuracy and the limits" in found.sentence
    assert "none was measured here" in choose_by("latency", (BASE, LATER)).sentence
