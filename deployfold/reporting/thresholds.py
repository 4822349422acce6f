"""Checks a report's rows against the limits that the user set."""

from __future__ import annotations

import math
from collections.abc import Sequence

from deployfold.config.task_metrics import MetricLimit
from deployfold.config.thresholds import Thresholds

from .metrics import METRICS
from .report import ThresholdResult
from .row import Row


def check(
    rows: Sequence[Row], limits: Thresholds, metrics: Sequence[MetricLimit] = ()
) -> tuple[ThresholdResult, ...]:
    """One result for each limit; the first row is the baseline.

    A limit on a value that was not measured is missed, with ``value`` ``None``: a build must not
    pass because a row failed to run. A limit without a row covers every row, also one that did not
    run. A speed-up of too few rounds counts as not measured.
    """
    results = []
    if limits.min_speedup is not None:
        results.append(_min_speedup(rows, limits.min_speedup))
    if limits.max_diff is not None:
        results.append(_max_diff(rows, limits.max_diff))
    for name, key, named in (
        ("max-latency-ms", "latency", limits.max_latency_ms),
        ("max-diff-of", "diff", limits.max_diff_of),
        ("min-speedup-of", "speedup", limits.min_speedup_of),
    ):
        results.extend(_of_row(rows, name, key, row, limit) for row, limit in named)
    results += [_min_metric(rows, one) for one in metrics]
    return tuple(results)


def _min_metric(rows: Sequence[Row], limit: MetricLimit) -> ThresholdResult:
    """No row that was measured has less; the result names the worst.

    A row that this machine cannot run, such as an engine without its GPU, has no number here; the
    ONNX that it was made from has one.
    """
    original = rows[0].scores.get(limit.name) if rows else None
    least = limit.value if original is None else limit.least(original)
    name = f"min-metric {limit.name}"
    measured = [row for row in rows if row.scores or row.latency is not None]
    if not measured or (limit.unit and original is None):
        return ThresholdResult(name=name, limit=least, value=None, row=None, passed=False)

    def value_of(row: Row) -> float:
        value = row.scores.get(limit.name)
        return -math.inf if value is None or math.isnan(value) else value

    worst = min(measured, key=value_of)
    value, row = worst.scores.get(limit.name), worst.name
    passed = value is not None and value >= least
    return ThresholdResult(name=name, limit=least, value=value, row=row, passed=passed)


def _min_speedup(rows: Sequence[Row], limit: float) -> ThresholdResult:
    """At least one row reaches the speed-up."""
    read = METRICS["speedup"].read
    speedups = [(value, row.name) for row in rows[1:] if (value := read(row)) is not None]
    value, name = max(speedups, default=(None, None))
    passed = value is not None and value >= limit
    return ThresholdResult(name="min-speedup", limit=limit, value=value, row=name, passed=passed)


def _max_diff(rows: Sequence[Row], limit: float) -> ThresholdResult:
    """No row differs by more; the result names a row above the limit before an unmeasured one."""
    read = METRICS["diff"].read
    found = [(_nan_is_infinite(read(row)), row.name) for row in rows[1:]]
    value, name = max(((v, row) for v, row in found if v is not None), default=(None, None))
    passed = value is not None and value <= limit
    unmeasured = next((row for one, row in found if one is None), None)
    if passed and unmeasured is not None:
        value, name, passed = None, unmeasured, False
    return ThresholdResult(name="max-diff", limit=limit, value=value, row=name, passed=passed)


def _of_row(rows: Sequence[Row], name: str, key: str, row: str, limit: float) -> ThresholdResult:
    metric = METRICS[key]
    found = next((one for one in rows if one.name == row), None)
    value = None if found is None else metric.read(found)
    if metric.better == "less":
        value = _nan_is_infinite(value)
    kept = value is not None and (value >= limit if metric.better == "more" else value <= limit)
    return ThresholdResult(name=name, limit=limit, value=value, row=row, passed=kept)


def _nan_is_infinite(value: float | None) -> float | None:
    return math.inf if value is not None and math.isnan(value) else value
