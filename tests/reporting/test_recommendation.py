"""The report recommends one artifact, and states the reason in one sentence."""

from __future__ import annotations

import pytest
from report_sample import full_report, sample_report

from deployfold.reporting.layers import QuantizationSummary
from deployfold.reporting.recommendation import recommend
from deployfold.reporting.report import Report, Status
from deployfold.reporting.row import Accuracy, Speedup


def with_row(report: Report, index: int, **changes: object) -> Report:
    rows = list(report.rows)
    rows[index] = rows[index].model_copy(update=changes)
    return report.model_copy(update={"rows": tuple(rows)})


def taken(report: Report) -> str | None:
    row = recommend(report).row
    return None if row is None else row.name


def test_the_fastest_accurate_row_is_recommended() -> None:
    report = sample_report()
    assert taken(report) == "onnxruntime"
    fast = report.rows[4].latency
    assert fast is not None
    faster = fast.model_copy(update={"speedup": Speedup(value=4.0, low=3.9, high=4.1)})
    assert taken(with_row(report, 3, latency=faster)) == "program"
    assert taken(with_row(report, 5, latency=faster)) == "onnxruntime"  # 18 dB are too few


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"accuracy": None}, "folded"),
        ({"accuracy": Accuracy(max_abs_diff=1.0, sqnr_db=float("nan"))}, "folded"),
        ({"quantization": QuantizationSummary(quantized_macs_share=0.9, calibrated=False)},
         "folded"),
        ({"quantization": QuantizationSummary(quantized_macs_share=0.9, calibrated=True)},
         "onnxruntime"),
    ],
)  # fmt: skip
def test_a_row_of_unknown_accuracy_is_not_recommended(change, expected) -> None:
    assert taken(with_row(sample_report(), 4, **change)) == expected


def test_labels_judge_in_place_of_decibels() -> None:
    report = full_report()
    kept = Accuracy(max_abs_diff=0.2, sqnr_db=24.0, accuracy=0.757, samples=1000)
    choice = recommend(with_row(report, 4, accuracy=kept))
    assert choice.row is not None
    assert choice.row.name == "onnxruntime"
    assert "75.7 % accuracy (0.40 points lost)" in choice.sentence
    lost = kept.model_copy(update={"accuracy": 0.70})
    assert taken(with_row(report, 4, accuracy=lost)) == "folded"


def test_a_lossy_row_says_how_much_it_loses() -> None:
    near = Accuracy(max_abs_diff=0.1, sqnr_db=40.2, top1_agreement=0.992, samples=500)
    assert recommend(with_row(sample_report(), 4, accuracy=near)).sentence == (
        "ONNX Runtime: 2.06× as fast as PyTorch here [2.04, 2.09] (not stable), outputs to 40.2 dB"
        " SQNR, the same first class for 99.2 % of 500 samples, 102.1 MB."
    )


def test_a_row_that_is_not_stable_is_recommended_with_a_caveat() -> None:
    report = sample_report()
    latency = report.rows[4].latency
    assert latency is not None
    assert not latency.stable
    assert "PyTorch here [2.04, 2.09] (not stable), " in recommend(report).sentence
    sure = latency.model_copy(update={"stable": True})
    assert "stable" not in recommend(with_row(report, 4, latency=sure)).sentence


def test_a_report_without_a_choice_says_why() -> None:
    report = sample_report()
    slow = report.model_copy(update={"rows": (report.rows[0], report.rows[2], report.rows[3])})
    assert recommend(slow).sentence == (
        "Nothing measured here is faster than PyTorch and keeps its accuracy."
    )
    few = report.rows[4].latency
    assert few is not None
    few = few.model_copy(update={"speedup": Speedup(value=2.0, low=0.0, high=float("inf"))})
    two = with_row(report.model_copy(update={"rows": (report.rows[0], report.rows[4])}), 1,
                   latency=few)  # fmt: skip
    assert recommend(two).sentence.startswith("Too few rounds to say whether")
    none = report.model_copy(update={"rows": (report.rows[-1],)})
    assert recommend(none).sentence == (
        "No latency was measured: built for sm_89; measure it there: deployfold bench DIR."
    )
    failed = Status(state="failed", stage="lower", message="INT8 gives 3 dB.")
    assert recommend(report.model_copy(update={"status": failed})).sentence == (
        "The build failed at lower: INT8 gives 3 dB."
    )
