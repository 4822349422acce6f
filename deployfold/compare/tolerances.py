"""Tolerances: how much a metric may get worse from one report to the next (``--fail``)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from deployfold.errors import UsageError
from deployfold.reporting.metrics import METRICS, SCORE, Metric, find_metric

ROWS = "rows"
"""The key for the rows themselves, with the only limit ``never``: a measured row stays measured."""


@dataclass(frozen=True)
class Tolerance:
    """How much worse a metric may get: by a share of the old value, or by an amount.

    Attributes:
        metric: the key, or :data:`ROWS`.
        share: the limit as a share of the old value; ``None`` with an amount.
        amount: the limit in the metric's unit. Without share and amount, any change is tolerated.
        row: the name of the row; ``None`` for every row.
        asked: whether the user set the tolerance, and not a default.
    """

    metric: str
    share: float | None = None
    amount: float | None = None
    row: str | None = None
    asked: bool = False

    @property
    def limited(self) -> bool:
        """Whether the tolerance has a limit."""
        return self.share is not None or self.amount is not None

    def exceeded(self, old: float, worse_by: float) -> bool:
        """Whether a change for the worse exceeds the limit.

        Args:
            worse_by: the change for the worse, above 0 and in the metric's unit.
        """
        if self.share is not None:
            return math.isinf(worse_by) or worse_by > self.share * abs(old)
        return self.amount is not None and worse_by > self.amount

    def __str__(self) -> str:
        if self.share is not None:
            return f"{100 * self.share:g} %"
        if self.amount is None:
            return "never"
        metric = find_metric(self.metric)
        return metric.unit.write_limit(self.amount) if metric and self.amount else "any"


_HINT = "Write it as --fail latency=5%, sqnr=3dB, size=1%, ROW:latency=2ms or size=never."


def parse_tolerances(texts: Iterable[str]) -> tuple[Tolerance, ...]:
    """Read every ``--fail [ROW:]METRIC=LIMIT``; a later one replaces an earlier one.

    ``LIMIT`` is a share of the old value (``5%``), an amount in the metric's unit (``2ms``,
    ``3dB``, ``1MB``, ``0.5pt`` for percentage points; counts and ratios have none), or ``never``.

    Returns:
        The user's tolerances, and :data:`DEFAULTS` for the other metrics.

    Raises:
        UsageError: a text does not follow that grammar.
    """
    found = {(one.row, one.metric): one for one in DEFAULTS}
    for text in texts:
        tolerance = _parse(text)
        found[tolerance.row, tolerance.metric] = tolerance
    return tuple(found.values())


def tolerance_for(tolerances: Iterable[Tolerance], row: str, metric: str) -> Tolerance | None:
    """The tolerance for a metric of a row: the row's own, that of every row, or the default."""
    found = [one for one in tolerances if one.metric == metric and one.row in (row, None)]
    known = find_metric(metric)
    default = None
    if known and known.default_limit and metric.startswith(SCORE):
        default = _tolerance(known, known.default_limit)
    return min(found, key=lambda one: one.row is None, default=default)


def _tolerance(metric: Metric, limit: str) -> Tolerance:
    return Tolerance(metric.key, *_parse_limit(metric, limit))


def _parse(text: str) -> Tolerance:
    left, separator, limit = text.rpartition("=")
    row, _, key = left.rpartition(":")
    metric = find_metric(key)
    if not separator or (metric is None and key != ROWS):
        known = ", ".join((*METRICS, f"{SCORE}NAME", ROWS))
        raise UsageError(f"{text!r} is not a tolerance.", hint=f"{_HINT} The metrics are {known}.")
    if limit == "never":
        return Tolerance(metric.key if metric else ROWS, row=row or None, asked=True)
    if metric is None:
        raise UsageError(f"{limit!r} is not a limit for {ROWS}.", hint=_HINT)
    share, amount = _parse_limit(metric, limit)
    return Tolerance(metric.key, share, amount, row or None, asked=True)


def _parse_limit(metric: Metric, limit: str) -> tuple[float | None, float | None]:
    """The limit as a share, or as an amount."""
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,12})?)\s*(%|[A-Za-z/]*)", limit, re.ASCII)
    if match is None:
        raise UsageError(f"{limit!r} is not a limit for {metric.key}.", hint=_HINT)
    number, unit = float(match[1]), match[2]
    if unit == "%":
        return number / 100, None
    units = metric.unit.limits
    if unit not in units and number != 0:
        words = ", ".join(word or "no unit" for word in units)
        raise UsageError(f"{limit!r} is not a limit for {metric.key}, which takes {words} or %.")
    return None, number * units.get(unit, 1.0)


DEFAULTS: tuple[Tolerance, ...] = (
    *(_tolerance(one, one.default_limit) for one in METRICS.values() if one.default_limit),
    Tolerance(ROWS, amount=0.0),
)
"""The tolerances without ``--fail``: the defaults of the metrics, and measured rows must stay."""
