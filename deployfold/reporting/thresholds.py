"""Hold the limits that the user set against a report's rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from deployfold.config.spec import Thresholds

from .report import Row, ThresholdResult


def check(rows: Sequence[Row], limits: Thresholds) -> tuple[ThresholdResult, ...]:
    """One result for every limit; the first row is the baseline.

    A limit on something that was not measured is missed, with ``value`` ``None``: a build must not
    pass because a row failed to run.
    """
    results = []
    if limits.min_speedup is not None:
        results.append(_min_speedup(rows, limits.min_speedup))
    if limits.max_diff is not None:
        results.append(_max_diff(rows, limits.max_diff))
    results.extend(_max_latency(rows, name, limit) for name, limit in limits.max_latency_ms)
    return tuple(results)


def _min_speedup(rows: Sequence[Row], limit: float) -> ThresholdResult:
    speedups = [
        (row.latency.speedup.value, row.name)
        for row in rows[1:]
        if row.latency is not None and row.latency.speedup is not None
    ]
    value, name = max(speedups, default=(None, None))
    passed = value is not None and value >= limit
    return ThresholdResult(name="min-speedup", limit=limit, value=value, row=name, passed=passed)


def _max_diff(rows: Sequence[Row], limit: float) -> ThresholdResult:
    differences = [
        (_nan_is_infinite(row.accuracy.max_abs_diff), row.name)
        for row in rows
        if row.accuracy is not None
    ]
    value, name = max(differences, default=(None, None))
    passed = value is not None and value <= limit
    return ThresholdResult(name="max-diff", limit=limit, value=value, row=name, passed=passed)


def _max_latency(rows: Sequence[Row], name: str, limit: float) -> ThresholdResult:
    row = next((row for row in rows if row.name == name), None)
    value = row.latency.median_ms if row is not None and row.latency is not None else None
    passed = value is not None and value <= limit
    return ThresholdResult(name="max-latency-ms", limit=limit, value=value, row=name, passed=passed)


def _nan_is_infinite(value: float) -> float:
    return math.inf if math.isnan(value) else value
