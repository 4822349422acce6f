"""The differences of two reports, and which of them are regressions."""

from __future__ import annotations

import contextlib
import json
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rendered import HOSTILE, parse, plain, tables
from report_sample import full_report, sample_report

from deployfold.compare.changes import Change, Changes
from deployfold.compare.judge import compare_reports
from deployfold.compare.render import (
    changes_junit,
    changes_markdown,
    changes_renderable,
    regression_sentences,
)
from deployfold.compare.tolerances import DEFAULTS, parse_tolerances, tolerance_for
from deployfold.config.thresholds import Thresholds
from deployfold.errors import UsageError
from deployfold.reporting.metrics import METRICS
from deployfold.reporting.report import Report, Status
from deployfold.reporting.row import ColdStart, Row, Speedup
from deployfold.reporting.thresholds import check

OLD = full_report()


def change_row(report: Report, name: str, **changes: Any) -> Report:
    """The report with some fields of a row changed: ``latency__median_ms=1`` reaches inside."""

    def changed(row: Row) -> Row:
        update: dict[str, Any] = {}
        for key, value in changes.items():
            field, _, inner = key.partition("__")
            if inner:
                part = update.get(field) or getattr(row, field)
                update[field] = part.model_copy(update={inner: value})
            else:
                update[field] = value
        return row.model_copy(update=update)

    rows = tuple(changed(row) if row.name == name else row for row in report.rows)
    return report.model_copy(update={"rows": rows})


def timed(ms: float, width: float = 0.01) -> dict[str, float]:
    return {
        "latency__median_ms": ms,
        "latency__p95_ms": ms,
        "latency__median_low_ms": ms * (1 - width),
        "latency__median_high_ms": ms * (1 + width),
    }


def verdict(changes: Changes, row: str, metric: str) -> Change:
    (found,) = [one for one in changes.changes if (one.row, one.metric) == (row, metric)]
    return found


def test_a_latency_of_nan_is_not_within_the_noise() -> None:
    new = change_row(OLD, "onnxruntime", latency__median_ms=float("nan"))
    assert verdict(compare_reports(OLD, new), "onnxruntime", "latency").verdict == "regression"
    assert verdict(compare_reports(new, new), "onnxruntime", "latency").verdict == "same"


def test_a_report_and_itself() -> None:
    changes = compare_reports(OLD, OLD)
    assert changes.passed
    assert {change.verdict for change in changes.changes} == {"same"}
    assert changes.differences == ()


@pytest.mark.parametrize(
    ("ms", "width", "expected"),
    [
        (103.0, 0.001, "same"),  # two runs of one program differ by that much
        (108.0, 0.001, "worse"),
        (108.0, 0.1, "same"),  # the intervals overlap
        (112.0, 0.01, "regression"),
        (112.0, 0.1, "same"),
        (80.0, 0.01, "better"),
    ],
)
def test_latency_moves_beyond_drift_and_noise(ms: float, width: float, expected: str) -> None:
    old = change_row(OLD, "folded", **timed(100.0, width))
    new = change_row(OLD, "folded", **timed(ms, width))
    assert verdict(compare_reports(old, new), "folded", "latency").verdict == expected


def test_without_intervals_the_older_reports_speedup_stands_in() -> None:
    # torchscript has 1.007 [0.991, 1.02], and so the median 60.8 [60.02, 61.78].
    for ms, expected in ((70.0, "regression"), (61.5, "same")):
        new = change_row(OLD, "torchscript", latency__median_ms=ms)
        assert verdict(compare_reports(OLD, new), "torchscript", "latency").verdict == expected


def test_too_few_rounds_are_unjudged_listed_and_fail_when_strict() -> None:
    few = {"latency__median_low_ms": 0.0, "latency__median_high_ms": float("inf")}
    new = change_row(OLD, "folded", latency__median_ms=900.0, latency__rounds=5, **few)
    changes = compare_reports(OLD, new)
    found = verdict(changes, "folded", "latency")
    assert (found.verdict, found.reason) == (
        "unjudged",
        "no 95 % interval in the new one (5 rounds)",
    )
    assert changes.passed
    listed = "Unjudged: latency of PyTorch, folded (no 95 % interval in the new one (5 rounds))"
    assert listed in plain(changes_renderable(changes), 120)
    assert "--strict fails for the 1 unjudged figure with a limit" in plain(
        changes_renderable(changes), 120
    )
    strict = compare_reports(OLD, new, strict=True)
    assert not strict.passed
    assert "1 figure with a limit unjudged" in plain(changes_renderable(strict), 120)
    assert any("no 95 % interval" in sentence for sentence in regression_sentences(strict))
    assert not compare_reports(OLD, new, parse_tolerances(["latency=10%"])).passed, "asked for"


def test_strict_tolerates_what_has_no_limit() -> None:
    new = change_row(OLD, "folded", latency__p95_ms=900.0)
    changes = compare_reports(OLD, new, strict=True)
    assert verdict(changes, "folded", "p95").verdict == "unjudged"
    assert changes.passed


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(880.0, 920.0, "regression"), (50.0, 1000.0, "same"), (None, None, "regression")],
)
def test_p95_is_judged_by_its_own_interval(
    low: float | None, high: float | None, expected: str
) -> None:
    """The median's interval stays the same, and does not describe the tail."""
    old = change_row(OLD, "folded", **timed(100.0), latency__p95_low_ms=98.0,
                     latency__p95_high_ms=102.0)  # fmt: skip
    new = change_row(old, "folded", latency__p95_ms=909.0, latency__p95_low_ms=low,
                     latency__p95_high_ms=high)  # fmt: skip
    found = verdict(compare_reports(old, new, parse_tolerances(["p95=10%"])), "folded", "p95")
    assert found.verdict == expected


def test_a_speedup_of_too_few_rounds_is_unjudged() -> None:
    few = Speedup(value=9.0, low=0.0, high=float("inf"))
    new = change_row(OLD, "folded", latency__speedup=few)
    found = verdict(compare_reports(OLD, new), "folded", "speedup")
    assert (found.verdict, found.new) == ("unjudged", None)


def test_throughput_is_compared_if_fail_names_it() -> None:
    new = change_row(OLD, "torchscript", latency__throughput=1.0, latency__median_ms=1000.0)
    assert not any(one.metric == "throughput" for one in compare_reports(OLD, new).changes)
    asked = compare_reports(OLD, new, parse_tolerances(["torchscript:throughput=5%"]))
    assert verdict(asked, "torchscript", "throughput").verdict == "regression"


def test_a_tolerance_without_a_measurement_fails() -> None:
    bare = sample_report()
    changes = compare_reports(bare, bare, parse_tolerances(["accuracy=1pt"]))
    assert regression_sentences(changes) == ["every row accuracy: not measured in either report"]
    assert compare_reports(bare, bare, parse_tolerances(["accuracy=never"])).passed
    with pytest.raises(UsageError, match="Neither report has a row 'onxruntime'"):
        compare_reports(bare, bare, parse_tolerances(["onxruntime:latency=5%"]))


def test_figures_without_noise_move_at_all() -> None:
    row = "onnxruntime-int8"
    for field, value, metric, expected in (
        ("bytes", 51_140_000, "size", "worse"),
        ("bytes", 52_000_000, "size", "regression"),
        ("bytes", 40_000_000, "size", "better"),
        ("batchnorm_layers", 2, "batchnorm", "regression"),
        ("parameters", 25_530_473, "parameters", "regression"),
        ("accuracy__accuracy", 0.747, "accuracy", "regression"),
        ("accuracy__accuracy", 0.749, "accuracy", "better"),
        ("accuracy__top1_agreement", 0.97, "top1", "regression"),
        ("accuracy__sqnr_db", 23.0, "sqnr", "worse"),
        ("accuracy__sqnr_db", 21.0, "sqnr", "regression"),
        ("accuracy__max_abs_diff", 0.9, "diff", "worse"),
        ("quantization__quantized_macs_share", 0.9, "quantized", "regression"),
    ):
        changes = compare_reports(OLD, change_row(OLD, row, **{field: value}))
        assert verdict(changes, row, metric).verdict == expected, (field, value)
        assert changes.passed == (expected != "regression")


def test_rounding_of_float32_is_equal_and_its_loss_is_a_change() -> None:
    for sqnr, expected in ((95.0, "same"), (40.0, "regression"), (float("-inf"), "regression")):
        new = change_row(OLD, "torchscript", accuracy__sqnr_db=sqnr)
        assert verdict(compare_reports(OLD, new), "torchscript", "sqnr").verdict == expected
    nan = change_row(OLD, "torchscript", accuracy__max_abs_diff=float("nan"))
    tolerances = parse_tolerances(["diff=10%"])
    assert not compare_reports(change_row(OLD, "torchscript", accuracy__sqnr_db=50.0),
                               change_row(nan, "torchscript", accuracy__sqnr_db=50.0),
                               tolerances).passed  # fmt: skip


def test_a_row_that_is_measured_no_more_or_gone_is_a_regression() -> None:
    lost = change_row(OLD, "onnxruntime", latency=None, not_measured="no kernel")
    changes = compare_reports(OLD, lost)
    found = verdict(changes, "onnxruntime", "rows")
    assert (found.verdict, found.reason) == ("regression", "no longer measured: no kernel")
    assert not any(one.metric == "latency" and one.row == "onnxruntime" for one in changes.changes)
    gone = OLD.model_copy(update={"rows": OLD.rows[:-1]})
    assert compare_reports(OLD, gone).rows_gone == ("tensorrt-fp16",)
    assert not compare_reports(OLD, gone).passed
    assert compare_reports(OLD, gone, parse_tolerances(["rows=never"])).passed
    more = compare_reports(gone, OLD)
    assert more.passed
    assert more.rows_new == ("tensorrt-fp16",)
    measured = compare_reports(lost, OLD)
    assert measured.passed
    assert verdict(measured, "onnxruntime", "latency").verdict == "new"


def test_an_accuracy_that_is_measured_no_more_is_a_regression() -> None:
    new = change_row(OLD, "onnxruntime-int8", accuracy=None)
    found = compare_reports(OLD, new).regressions
    assert [one.metric for one in found] == ["sqnr", "top1", "accuracy"]


def test_a_build_that_did_not_complete_is_a_regression() -> None:
    status = Status(state="interrupted", stage="measure")
    changes = compare_reports(OLD, OLD.model_copy(update={"status": status}))
    assert regression_sentences(changes) == ["the build rows: interrupted at measure"]


@pytest.mark.parametrize("field", ["cpu", "gpu", "threads"])
def test_times_of_different_machines_are_not_judged(field: str) -> None:
    other = {"cpu": "Other CPU", "gpu": "Some GPU", "threads": 8}[field]
    environment = OLD.environment.model_copy(update={field: other})
    new = change_row(OLD, "folded", bytes=400_000_000, **timed(999.0))
    new = new.model_copy(update={"environment": environment})
    changes = compare_reports(OLD, new)
    assert verdict(changes, "folded", "latency").verdict == "unjudged"
    assert verdict(changes, "folded", "sqnr").verdict == "same"
    assert [one.metric for one in changes.regressions] == ["size"], "a file is a file anywhere"
    assert str(other) in changes.differences[0]
    asked = compare_reports(OLD, new, parse_tolerances(["folded:latency=50%"]))
    assert "not comparable" in (verdict(asked, "folded", "latency").reason or "")
    assert len(asked.regressions) == 2, "what was asked for and cannot be held is missed"


def test_other_inputs_make_accuracy_incomparable_and_other_shapes_times_too() -> None:
    data = OLD.model_copy(update={"input_data": "images.npz, 64 samples"})
    changes = compare_reports(OLD, data)
    assert verdict(changes, "folded", "sqnr").verdict == "unjudged"
    assert verdict(changes, "folded", "latency").verdict == "same"
    shape = OLD.inputs[0].model_copy(update={"shape": (8, 3, 224, 224)})
    changes = compare_reports(OLD, OLD.model_copy(update={"inputs": (shape,)}))
    assert verdict(changes, "folded", "latency").verdict == "unjudged"
    assert "1x3x224x224 float32, then 8x3x224x224 float32" in changes.differences[0]


def test_library_versions_are_named_and_judge_nothing() -> None:
    packages = {**OLD.environment.packages, "torch": "3.0"}
    environment = OLD.environment.model_copy(update={"packages": packages})
    changes = compare_reports(OLD, OLD.model_copy(update={"environment": environment}))
    assert changes.differences == ("torch 2.14.1, then 3.0",)
    assert not any(one.verdict == "unjudged" for one in changes.changes)


def test_cold_start_moves_beyond_ten_per_cent() -> None:
    for ms, expected in ((235.0, "same"), (260.0, "worse")):
        cold = ColdStart(load_ms=1, first_ms=1, total_ms=ms, peak_bytes=86_712_320, runs=3)
        changes = compare_reports(OLD, change_row(OLD, "torchscript", cold_start=cold))
        assert verdict(changes, "torchscript", "cold").verdict == expected
        strict = compare_reports(
            OLD, change_row(OLD, "torchscript", cold_start=cold), parse_tolerances(["cold=15ms"])
        )
        assert strict.passed == (expected == "same")


@pytest.mark.parametrize(
    ("text", "metric", "row", "limit"),
    [
        ("latency=5%", "latency", None, "5 %"),
        ("onnxruntime:latency=2ms", "latency", "onnxruntime", "2.00 ms"),
        ("latency=1.5s", "latency", None, "1,500 ms"),
        ("a:b.onnx:size=1MB", "size", "a:b.onnx", "1.000 MB"),
        ("sqnr=3dB", "sqnr", None, "3.0 dB"),
        ("accuracy=0.5pt", "accuracy", None, "0.5 pt"),
        ("top1=0", "top1", None, "any"),
        ("bn=2", "batchnorm", None, "2"),
        ("a:bytes=1kB", "size", "a", "1.000 kB"),
        ("median=1ms", "latency", None, "1.00 ms"),
        ("int8=2pt", "quantized", None, "2 pt"),
        ("throughput=3%", "throughput", None, "3 %"),
        ("rows=never", "rows", None, "never"),
    ],
)
def test_tolerances_as_the_option_takes_them(
    text: str, metric: str, row: str | None, limit: str
) -> None:
    tolerance = tolerance_for(parse_tolerances([text]), row or "any", metric)
    assert tolerance is not None
    assert (tolerance.row, str(tolerance), tolerance.asked) == (row, limit, True)


@pytest.mark.parametrize(
    "text",
    ["", "latency", "latency=", "=5%", "speed=5%", "latency=5", "latency=5dB", "latency=-5%",
     "latency=nan%", "latency=1e5%", "rows=5%", "bytes=5 %%", "sqnr=٣dB"],
)  # fmt: skip
def test_a_malformed_tolerance_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_tolerances([text])


@given(st.text(max_size=20))
def test_any_text_is_a_tolerance_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert len(parse_tolerances([text])) >= len(DEFAULTS)


def test_a_rows_own_tolerance_comes_before_that_of_all() -> None:
    tolerances = parse_tolerances(["latency=5%", "latency=20%", "folded:latency=never"])
    assert str(tolerance_for(tolerances, "folded", "latency")) == "never"
    assert str(tolerance_for(tolerances, "program", "latency")) == "20 %"
    assert str(tolerance_for(tolerances, "program", "size")) == "1 %", (
        "the others keep their default"
    )


def test_every_metric_can_be_written() -> None:
    for metric in METRICS.values():
        assert metric.unit.write(1.0)


def worse() -> Changes:
    new = change_row(OLD, "onnxruntime", **timed(40.0), latency__speedup=None)
    new = change_row(new, "onnxruntime-int8", bytes=51_200_000, accuracy__accuracy=0.70)
    new = change_row(new, "folded", bytes=90_000_000)
    speedup = Speedup(value=1.6, low=1.5, high=1.7)
    new = change_row(new, "torchscript", latency__speedup=speedup)
    limits = check(new.rows, Thresholds(min_speedup=9, max_latency_ms=(("folded", 60.0),)))
    return compare_reports(OLD, new, limits=limits)


def test_the_terminal_shows_the_changed_metrics() -> None:
    output = plain(changes_renderable(worse()), 80)
    assert all(len(line) <= 80 for line in output.splitlines())
    words = [line.split() for line in output.splitlines()]
    assert any("latency" in line and "regression," in line and "+34.9" in line for line in words)
    assert "-4.80 pt" in output
    assert "worse, within 1 %" in output
    assert "2 regressions, 1 limit missed" in output or "3 regressions, 1 limit missed" in output
    assert "same" not in output.replace("figures did not move", "")
    full = plain(changes_renderable(worse(), everything=True), 120)
    assert "parameters" in full


def test_markdown_for_a_pull_request() -> None:
    text = changes_markdown(worse())
    moved, rest = tables(parse(text))
    assert moved[0] == ["artifact", "metric", "old", "new", "change", "verdict"]
    assert any(row[1:5] == ["latency", "29.7 ms", "40.0 ms", "+34.9 %"] for row in moved)
    assert len(rest) > 10
    assert text.startswith("### ")


def test_junit_has_a_case_for_every_figure() -> None:
    changes = worse()
    root = ElementTree.fromstring(changes_junit(changes))
    (suite,) = root
    cases = suite.findall("testcase")
    assert suite.get("tests") == str(len(cases)) == str(len(changes.changes) + 2)
    failed = {(case.get("classname"), case.get("name")) for case in cases if case.find("failure")
              is not None}  # fmt: skip
    assert ("onnxruntime", "latency") in failed
    assert ("onnxruntime-int8", "accuracy") in failed
    assert ("onnxruntime", "min-speedup") in failed or ("torchscript", "min-speedup") in failed
    assert suite.get("failures") == str(len(failed))


def test_hostile_names_are_escaped_everywhere() -> None:
    name = '"><a href="x">&\x00' + HOSTILE
    rows = tuple(
        row.model_copy(update={"name": f"{name}{i}", "title": name}) for i, row in
        enumerate(OLD.rows)
    )  # fmt: skip
    old = OLD.model_copy(update={"rows": rows})
    new = change_row(old, f"{name}1", latency=None, not_measured=name)
    changes = compare_reports(old, new)
    root = ElementTree.fromstring(changes_junit(changes))
    assert any('"><a href' in (case.get("classname") or "") for case in root.iter("testcase"))
    output = plain(changes_renderable(changes, everything=True), 120)
    assert not any(c in output for c in "\x1b\x07\u202e\ud800\x00")
    kinds = {c.type for token in parse(changes_markdown(changes)) for c in token.children or []}
    assert not kinds & {"link_open", "image", "html_inline"}
    assert not any(c in "".join(regression_sentences(changes)) for c in "\x1b\x00")


def test_json_has_no_nan_and_reads_back() -> None:
    new = change_row(OLD, "torchscript", accuracy__sqnr_db=float("-inf"))
    changes = compare_reports(OLD, new)
    text = changes.to_json()
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert Changes.model_validate_json(text) == changes


def test_the_plain_sample_compares_too() -> None:
    assert compare_reports(sample_report(), sample_report()).passed
