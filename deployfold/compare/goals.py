"""How far a metric may get worse from one report to the next: ``--fail latency=5%``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from deployfold.errors import UsageError
from deployfold.reporting import text
from deployfold.reporting.model import Accuracy, Latency, Row

Kind = Literal["time", "accuracy", "file"]


@dataclass(frozen=True)
class Metric:
    """Something of a row that is compared.

    Attributes:
        value: of a row; ``None`` where it was not measured.
        greater_is_better: of two values.
        kind: ``time`` depends on the machine, ``accuracy`` on the inputs, ``file`` on neither.
        units: what an absolute limit may be written in, with the factor to the value's own unit.
        write: a value for people.
    """

    value: Callable[[Row], float | None]
    greater_is_better: bool
    kind: Kind
    units: Mapping[str, float]
    write: Callable[[float], str]


@dataclass(frozen=True)
class Goal:
    """How much worse is still good: by a share of the old value, or by an amount.

    ``row`` is ``None`` for every row; ``asked`` says that the user set it. Without ``share`` and
    ``amount`` nothing is ever too much.
    """

    metric: str
    share: float | None = None
    amount: float | None = None
    row: str | None = None
    asked: bool = False

    def exceeded(self, old: float, worse_by: float) -> bool:
        """Whether getting worse by ``worse_by``, above 0 and in the metric's unit, is too much."""
        if self.share is not None:
            return math.isinf(worse_by) or worse_by > self.share * abs(old)
        return self.amount is not None and worse_by > self.amount

    def __str__(self) -> str:
        if self.share is not None:
            return f"{100 * self.share:g} %"
        if self.amount is None:
            return "never"
        if self.amount == 0:
            return "any"
        metric = METRICS[self.metric]
        if metric.units is _POINTS:
            return f"{100 * self.amount:g} pt"
        return metric.write(self.amount)


def _of_latency(read: Callable[[Latency], float | None]) -> Callable[[Row], float | None]:
    return lambda row: read(row.latency) if row.latency else None


def _of_accuracy(read: Callable[[Accuracy], float | None]) -> Callable[[Row], float | None]:
    return lambda row: read(row.accuracy) if row.accuracy else None


_MS = {"ms": 1.0, "us": 1e-3, "s": 1e3}
_BYTES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9}
_POINTS = {"pt": 0.01}  # percentage points


def _ms(value: float) -> str:
    return f"{text.milliseconds(value)} ms"


def _bytes(value: float) -> str:
    return text.size(round(value))


def _count(value: float) -> str:
    return f"{value:,.0f}"


METRICS: dict[str, Metric] = {
    "latency": Metric(_of_latency(lambda one: one.median_ms), False, "time", _MS, _ms),
    "p95": Metric(_of_latency(lambda one: one.p95_ms), False, "time", _MS, _ms),
    "speedup": Metric(
        _of_latency(lambda one: one.speedup.value if one.speedup else None),
        True,
        "time",
        {"": 1.0},
        lambda value: f"{text.ratio(value)}×",
    ),
    "cold": Metric(
        lambda row: row.cold_start.total_ms if row.cold_start else None, False, "time", _MS, _ms
    ),
    "memory": Metric(
        lambda row: row.cold_start.peak_bytes if row.cold_start else None,
        False,
        "time",
        _BYTES,
        _bytes,
    ),
    "bytes": Metric(lambda row: row.bytes, False, "file", _BYTES, _bytes),
    "parameters": Metric(lambda row: row.parameters, False, "file", {"": 1.0}, _count),
    "bn": Metric(lambda row: row.batchnorm_layers, False, "file", {"": 1.0}, _count),
    "int8": Metric(
        lambda row: row.int8.int8_macs_share if row.int8 else None,
        True,
        "file",
        _POINTS,
        text.percent,
    ),
    "diff": Metric(
        _of_accuracy(lambda one: one.max_abs_diff), False, "accuracy", {"": 1.0}, text.difference
    ),
    "sqnr": Metric(
        _of_accuracy(lambda one: one.sqnr_db), True, "accuracy", {"dB": 1.0}, text.decibels
    ),
    "top1": Metric(
        _of_accuracy(lambda one: one.top1_agreement), True, "accuracy", _POINTS, text.percent
    ),
    "accuracy": Metric(
        _of_accuracy(lambda one: one.accuracy), True, "accuracy", _POINTS, text.percent
    ),
}
"""What ``compare`` looks at, in the order it shows it."""

ROWS = "rows"
"""The goal that a row which was measured stays measured; it knows only ``never``."""

DEFAULTS: tuple[Goal, ...] = (
    Goal("latency", share=0.10),
    Goal("bytes", share=0.01),
    Goal("parameters", amount=0.0),
    Goal("bn", amount=0.0),
    Goal("int8", amount=0.01),
    Goal("sqnr", amount=3.0),
    Goal("top1", amount=0.0),
    Goal("accuracy", amount=0.0),
    Goal(ROWS, amount=0.0),
)
"""Without ``--fail``: a median latency 10 % worse and beyond noise (two runs of one program on one
machine differ by some per cent), a file 1 % larger, more parameters or BatchNorms, over one point
less of the MACs in INT8, over 3 dB of SQNR (the error's RMS times 1.4), any loss of top-1 agreement
or accuracy, a row that is measured no more. The other metrics fail only when asked to."""

_HINT = "Write it as --fail latency=5%, sqnr=3dB, bytes=1%, ROW:latency=2ms or bytes=never."


def parse_goals(texts: Iterable[str]) -> tuple[Goal, ...]:
    """Read every ``--fail [ROW:]METRIC=LIMIT``; a later one takes the place of an earlier.

    ``LIMIT`` is a share of the old value (``5%``), an amount in the metric's unit (``2ms``,
    ``3dB``, ``1MB``, ``0.5pt`` for percentage points; counts and ratios have none), or ``never``.

    Returns:
        The user's goals and, of the other metrics, :data:`DEFAULTS`.

    Raises:
        UsageError: a text does not follow that grammar.
    """
    goals = {(goal.row, goal.metric): goal for goal in DEFAULTS}
    for one in texts:
        goal = _parse(one)
        goals[goal.row, goal.metric] = goal
    return tuple(goals.values())


def goal_for(goals: Iterable[Goal], row: str, metric: str) -> Goal | None:
    """The goal of a metric of a row: its own, else that of every row."""
    found = [goal for goal in goals if goal.metric == metric and goal.row in (row, None)]
    return min(found, key=lambda goal: goal.row is None, default=None)


def _parse(one: str) -> Goal:
    left, separator, limit = one.rpartition("=")
    row, _, metric = left.rpartition(":")
    if not separator or metric not in (*METRICS, ROWS):
        known = ", ".join((*METRICS, ROWS))
        raise UsageError(f"{one!r} is no goal.", hint=f"{_HINT} The metrics are {known}.")
    if limit == "never":
        return Goal(metric, row=row or None, asked=True)
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,12})?)\s*(%|[A-Za-z]*)", limit, re.ASCII)
    if match is None or metric == ROWS:
        raise UsageError(f"{limit!r} is no limit for {metric}.", hint=_HINT)
    number, unit = float(match[1]), match[2]
    if unit == "%":
        return Goal(metric, share=number / 100, row=row or None, asked=True)
    units = METRICS[metric].units
    if unit not in units and number != 0:
        words = ", ".join(word or "no unit" for word in units)
        raise UsageError(f"{limit!r} is no limit for {metric}, which takes {words} or %.")
    return Goal(metric, amount=number * units.get(unit, 1.0), row=row or None, asked=True)
