"""One record makes a column, a sort key, a tolerance and a line of ``compare``."""

from __future__ import annotations

import pytest
from rendered import parse, plain, tables
from report_sample import full_report, sample_report

from deployfold.compare.judge import compare_reports
from deployfold.compare.tolerances import parse_tolerances
from deployfold.reporting import units
from deployfold.reporting.html import render_html
from deployfold.reporting.markdown import render_markdown
from deployfold.reporting.metrics import METRICS, Metric, find_metric
from deployfold.reporting.report import Report
from deployfold.reporting.select import sorted_by
from deployfold.reporting.terminal import ComparisonTable

P99 = Metric(
    "p99", "p99 ms", units.MILLISECONDS, "less",
    lambda row: row.latency.p99_ms if row.latency else None, "file", default_limit="1%",
)  # fmt: skip


@pytest.fixture
def with_p99(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "p99", P99)


def slower(report: Report) -> Report:
    row = report.rows[1]
    assert row.latency is not None
    latency = row.latency.model_copy(update={"p99_ms": 99.0})
    rows = (report.rows[0], row.model_copy(update={"latency": latency}), *report.rows[2:])
    return report.model_copy(update={"rows": rows})


def test_one_record_is_a_column_everywhere(with_p99: None) -> None:
    report = sample_report()
    wide = plain(ComparisonTable(report), 200)
    assert "p99 ms" in wide
    assert "73.5" in wide
    assert tables(parse(render_markdown(report)))[0][1][-1] == "73.5"
    assert "p99 ms" in render_html(report)
    assert "p99 ms" not in plain(ComparisonTable(report), 120), "the first to go"
    assert sorted_by(report, "p99").rows[1].name == "onnxruntime"


def test_one_record_is_compared_and_limited(with_p99: None) -> None:
    old, new = sample_report(), slower(sample_report())
    (change,) = compare_reports(old, new, parse_tolerances(["folded:p99=5ms"])).regressions
    assert (change.metric, change.limit) == ("p99", "5.00 ms")


def test_keys_are_unique_and_older_ones_are_found() -> None:
    aliases = [alias for metric in METRICS.values() for alias in metric.aliases]
    assert len({*METRICS, *aliases}) == len(METRICS) + len(aliases)
    for metric in METRICS.values():
        assert METRICS[metric.key] is metric
        assert all(find_metric(alias) is metric for alias in metric.aliases)
    assert find_metric("speed") is None


@pytest.mark.parametrize("key", METRICS)
def test_every_metric_reads_every_row(key: str) -> None:
    """A value or ``None``, and a cell in any case."""
    for report in (sample_report(), full_report()):
        for row in report.rows:
            value = METRICS[key].read(row)
            assert value is None or isinstance(value, (int, float))
            assert METRICS[key].write_cell(row)
            interval = METRICS[key].interval
            bounds = interval(row) if interval else None
            assert bounds is None or (value is not None and bounds[0] <= value <= bounds[1])
