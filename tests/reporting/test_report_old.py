"""Reports that an earlier deployfold wrote: of schema 1, and with fewer fields."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rendered import plain
from report_sample import full_report, sample_report

from deployfold.compare.judge import compare_reports
from deployfold.reporting.markdown import render_markdown
from deployfold.reporting.report import Report, load_report
from deployfold.reporting.terminal import ComparisonTable, summary_panel

OLD = Path(__file__).parent / "golden" / "old"


def test_a_report_of_0_1_0_loads_and_means_the_same() -> None:
    report = load_report(OLD / "report-0.1.0.json")
    assert report == sample_report()
    assert report.rows[0].latency is not None
    assert report.rows[0].latency.median_low_ms is None
    assert report.environment.cpus is None


@pytest.mark.parametrize("width", [80, 120])
def test_an_old_report_renders_unchanged(width: int) -> None:
    report = load_report(OLD / "report-0.1.0.json")
    expected = (OLD / f"comparison-{width}.txt").read_text(encoding="utf-8")
    assert plain(ComparisonTable(report), width) == expected
    summary = (OLD / "summary-80.txt").read_text(encoding="utf-8")
    assert plain(summary_panel(report), 80) == summary
    assert "2.06×" in render_markdown(report)


def test_an_old_report_can_be_compared_with_a_new_one() -> None:
    old = load_report(OLD / "report-0.1.0.json")
    assert compare_reports(old, sample_report()).passed


def test_a_report_of_schema_1_loads_with_its_quantised_rows() -> None:
    report = load_report(OLD / "report-schema-1.json")
    assert report == full_report()
    summary = next(row.quantization for row in report.rows if row.quantization)
    assert (summary.quantized_macs_share, len(summary.layers)) == (0.938, 3)


def test_a_reader_of_0_1_0_finds_every_field_it_knew() -> None:
    """Every field of an old report still exists under its name and with its type."""
    old = json.loads((OLD / "report-0.1.0.json").read_text(encoding="utf-8"))
    new = json.loads(full_report().to_json())

    def check(before: object, after: object, where: str) -> None:
        if isinstance(before, dict) and isinstance(after, dict):
            assert set(before) <= set(after), where
            for key in before:
                check(before[key], after[key], f"{where}.{key}")
        elif isinstance(before, list) and isinstance(after, list):
            for index, (first, second) in enumerate(zip(before, after, strict=False)):
                check(first, second, f"{where}[{index}]")

    check(old, new, "report")
    assert (old["schema_version"], new["schema_version"]) == ("1", "2")
    assert Report.model_validate_json(json.dumps(new)) == full_report()
