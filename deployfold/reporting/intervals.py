"""The 95 % intervals of a row's times, and what they decide.

Times of too few rounds have no interval: the functions then return ``None``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .row import Row, Speedup

Bounds = tuple[float, float]

MIN_FOR_INTERVAL = 6
"""Least number of values for a 95 % interval of the median. All n values lie on one side of the
true median with probability 2 / 2^n. For n < 6 this exceeds 5 %, so even the interval from the
least to the greatest value is too narrow."""


def settled_speedup(row: Row) -> Speedup | None:
    """The speed-up, where there were rounds enough for an interval."""
    speedup = row.latency.speedup if row.latency else None
    return speedup if speedup is not None and speedup.bounded else None


def too_few_rounds(row: Row) -> bool:
    """A speed-up was measured, in too few rounds for an interval."""
    speedup = row.latency.speedup if row.latency else None
    return speedup is not None and not speedup.bounded


def slower(row: Row, baseline: Row) -> bool:
    """The whole interval of the speed-up lies below 1."""
    speedup = settled_speedup(row)
    return speedup is not None and speedup.high < 1.0


def faster(row: Row) -> bool:
    """The whole interval of the speed-up lies above 1."""
    speedup = settled_speedup(row)
    return speedup is not None and speedup.low > 1.0


def _bounds(low: float | None, high: float | None) -> Bounds | None:
    if low is None or high is None or not math.isfinite(high):
        return None
    return low, high


def speedup_interval(row: Row) -> Bounds | None:
    """The interval of the speed-up."""
    speedup = settled_speedup(row)
    return None if speedup is None else (speedup.low, speedup.high)


def latency_interval(row: Row) -> Bounds | None:
    """The interval of the median; older reports have only that of the speed-up."""
    latency = row.latency
    if latency is None:
        return None
    if latency.median_low_ms is not None:
        return _bounds(latency.median_low_ms, latency.median_high_ms)
    speedup = settled_speedup(row)
    if speedup is None or speedup.low == speedup.high:
        return None
    scaled = latency.median_ms * speedup.value
    return scaled / speedup.high, scaled / speedup.low


def p95_interval(row: Row) -> Bounds | None:
    """The interval of the 95th percentile, which takes 72 independent calls or more."""
    return _bounds(row.latency.p95_low_ms, row.latency.p95_high_ms) if row.latency else None


def throughput_interval(row: Row) -> Bounds | None:
    """The median's interval: throughput is the batch size over the median."""
    latency, bounds = row.latency, latency_interval(row)
    if latency is None or bounds is None or not bounds[0]:
        return None
    batch_ms = latency.throughput * latency.median_ms
    return batch_ms / bounds[1], batch_ms / bounds[0]
