"""What moved from one report to the next, beyond noise, and what of it is a regression."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from deployfold.reporting import text
from deployfold.reporting.fields import Frozen, Number
from deployfold.reporting.model import Latency, Report, Row, ThresholdResult

from .differences import differences, shapes_of
from .goals import DEFAULTS, METRICS, ROWS, Goal, goal_for

Verdict = Literal["regression", "worse", "better", "same", "unjudged", "new"]
ROUNDING_DB = 80.0
"""Above this SQNR an error is float32's own rounding (1e-4 of the outputs and less), which moves by
decibels with every version of a library and means nothing."""
DRIFT = {"latency": 0.05, "p95": 0.10, "cold": 0.10, "memory": 0.10}
"""Two runs of one program on one machine differ by this much, relative, although the intervals of
each do not overlap: an interval says what one run could have found, not what the machine does an
hour later. Measured between two runs of ``bench`` on two shared cores: medians 3 to 6 % apart, p95
3 to 12 %; speed-ups, whose baseline drifts along, did not move."""
INDISTINCT = 1e-9
"""Relative difference of two deterministic figures that is their way through JSON."""


class Change(Frozen):
    """One metric of one row, in the old report and in the new.

    Attributes:
        old, new: in the metric's own unit; ``None`` where it was not measured.
        verdict: ``worse`` and ``better`` moved beyond noise and within the goal, ``same`` did not
            move, ``unjudged`` cannot be compared, ``new`` is in the new report alone.
        limit: the goal in words; ``None`` where there is none.
        reason: why it is unjudged, or a regression without two numbers.
    """

    row: str
    title: str
    metric: str
    old: Number | None = None
    new: Number | None = None
    verdict: Verdict
    limit: str | None = None
    reason: str | None = None

    @property
    def relative(self) -> float | None:
        """new / old - 1, where both are finite numbers and the old one is not 0."""
        if self.old is None or self.new is None or not self.old:
            return None
        if not math.isfinite(self.old) or not math.isfinite(self.new):
            return None
        return self.new / self.old - 1


class Changes(Frozen):
    """The comparison of two reports.

    Attributes:
        differences: of machine, threads, inputs and libraries, in sentences.
        rows_gone, rows_new: names of rows that only one of the two reports has.
        limits: absolute limits held against the new report.
    """

    old: str
    new: str
    differences: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    rows_gone: tuple[str, ...] = ()
    rows_new: tuple[str, ...] = ()
    limits: tuple[ThresholdResult, ...] = ()

    @property
    def regressions(self) -> tuple[Change, ...]:
        """What is worse than its goal allows."""
        return tuple(change for change in self.changes if change.verdict == "regression")

    @property
    def moved(self) -> tuple[Change, ...]:
        """What is worth showing: all but what stayed the same or cannot be compared."""
        return tuple(one for one in self.changes if one.verdict not in ("same", "unjudged"))

    @property
    def passed(self) -> bool:
        """No regression, and every absolute limit is kept."""
        return not self.regressions and all(limit.passed for limit in self.limits)

    def to_json(self) -> str:
        """The JSON text, indented, with a final newline."""
        return self.model_dump_json(indent=2) + "\n"


def compare_reports(
    old: Report,
    new: Report,
    goals: Iterable[Goal] = DEFAULTS,
    *,
    limits: tuple[ThresholdResult, ...] = (),
) -> Changes:
    """Compare every row of ``new`` with the row of that name in ``old``.

    A latency moved if it changed by more than :data:`DRIFT` and the 95 % intervals of the medians
    do not overlap; figures without noise if they are not equal. Times are judged only where
    machine, threads and input shapes are the same, accuracy only on the same inputs; a goal that
    the user set and that cannot be judged is missed.

    Args:
        goals: see :func:`.goals.parse_goals`.
        limits: results of :func:`.thresholds.check` on the rows of ``new``.
    """
    goals = tuple(goals)
    machine, inputs, notes = differences(old, new)
    before = {row.name: row for row in old.rows}
    after = {row.name: row for row in new.rows}
    found = [*_unfinished(new)]
    for name, row in after.items():
        if name not in before:
            title = text.clean(row.title)
            found.append(Change(row=name, title=title, metric=ROWS, verdict="new"))
            continue
        found += _compare_row(before[name], row, goals, machine, inputs)
    for name, row in before.items():
        if name not in after:
            found.append(_lost(row, "the row is gone", goals))
    return Changes(
        old=_identity(old),
        new=_identity(new),
        differences=(*machine, *inputs, *notes),
        changes=tuple(found),
        rows_gone=tuple(name for name in before if name not in after),
        rows_new=tuple(name for name in after if name not in before),
        limits=limits,
    )


def _unfinished(new: Report) -> list[Change]:
    status = new.status
    if status.state == "complete":
        return []
    where = f" at {status.stage}" if status.stage else ""
    return [
        Change(
            row="", title="the build", metric=ROWS, verdict="regression",
            reason=text.clean(f"{status.state}{where}"),
        )
    ]  # fmt: skip


def _compare_row(
    old: Row, new: Row, goals: tuple[Goal, ...], machine: list[str], inputs: list[str]
) -> list[Change]:
    found = []
    if old.latency is not None and new.latency is None:
        why = f"not measured any more: {new.not_measured or 'no reason was recorded'}"
        found.append(_lost(new, why, goals))
    for metric, definition in METRICS.items():
        before, after = definition.value(old), definition.value(new)
        if before is None and after is None:
            continue
        if after is None and definition.kind == "time" and new.latency is None and found:
            continue  # the row's own line says it
        apart = {"time": machine + shapes_of(inputs), "accuracy": inputs, "file": []}
        found.append(_judge(old, new, metric, goals, apart[definition.kind]))
    return found


def _judge(old: Row, new: Row, metric: str, goals: tuple[Goal, ...], apart: list[str]) -> Change:
    definition, goal = METRICS[metric], goal_for(goals, new.name, metric)
    before, after = definition.value(old), definition.value(new)
    limit = None if goal is None or str(goal) == "never" else str(goal)
    verdict: Verdict
    reason = None
    if before is None or after is None:
        lost = before is not None and limit is not None
        verdict = "regression" if lost else "new" if before is None else "worse"
        reason = "not measured any more" if before is not None else "not measured before"
    elif apart:
        asked = goal is not None and goal.asked and limit is not None
        verdict, reason = "regression" if asked else "unjudged", f"not comparable: {apart[0]}"
    else:
        verdict = _verdict(old, new, metric, goal)
    return Change(
        row=new.name, title=text.clean(new.title), metric=metric, old=before, new=after,
        verdict=verdict, limit=limit, reason=reason,
    )  # fmt: skip


def _verdict(old: Row, new: Row, metric: str, goal: Goal | None) -> Verdict:
    definition = METRICS[metric]
    before, after = definition.value(old), definition.value(new)
    assert before is not None
    assert after is not None
    if before == after or (math.isnan(before) and math.isnan(after)) or _noise(old, new, metric):
        return "same"
    worse_by = before - after if definition.greater_is_better else after - before
    if math.isnan(worse_by):  # one is no number: worse, if that is the new one
        worse_by = math.inf if math.isnan(after) else -math.inf
    if worse_by < 0:
        return "better"
    return "regression" if goal is not None and goal.exceeded(before, worse_by) else "worse"


def _noise(old: Row, new: Row, metric: str) -> bool:
    """Whether the two values may differ by chance alone."""
    definition = METRICS[metric]
    before, after = definition.value(old) or 0.0, definition.value(new) or 0.0
    if abs(after - before) <= DRIFT.get(metric, 0.0) * before:
        return True
    if metric in ("latency", "p95"):
        return _overlap(_interval(old.latency), _interval(new.latency))
    if metric == "speedup":
        return _overlap(_speedup(old.latency), _speedup(new.latency))
    if metric == "sqnr":
        return min(before, after) >= ROUNDING_DB
    if metric == "diff":
        both = (old.accuracy, new.accuracy)
        if all(one is not None and one.sqnr_db >= ROUNDING_DB for one in both):
            return True
    return math.isclose(before, after, rel_tol=INDISTINCT)


def _interval(latency: Latency | None) -> tuple[float, float] | None:
    """The 95 % interval of the median; older reports have only that of the speed-up."""
    if latency is None:
        return None
    if latency.median_low_ms is not None and latency.median_high_ms is not None:
        return latency.median_low_ms, latency.median_high_ms
    speedup = latency.speedup
    if speedup is None or not speedup.bounded or speedup.low == speedup.high:
        return None
    middle = latency.median_ms
    return middle * speedup.value / speedup.high, middle * speedup.value / speedup.low


def _speedup(latency: Latency | None) -> tuple[float, float] | None:
    if latency is None or latency.speedup is None:
        return None
    return latency.speedup.low, latency.speedup.high


def _overlap(first: tuple[float, float] | None, second: tuple[float, float] | None) -> bool:
    if first is None or second is None:
        return False  # nothing is known of the noise: the goal alone decides
    return first[0] <= second[1] and second[0] <= first[1]


def _lost(row: Row, why: str, goals: tuple[Goal, ...]) -> Change:
    """A row whose latency is there no more."""
    goal = goal_for(goals, row.name, ROWS)
    held = goal is not None and str(goal) != "never"
    return Change(
        row=row.name, title=text.clean(row.title), metric=ROWS,
        verdict="regression" if held else "worse", reason=text.clean(why),
    )  # fmt: skip


def _identity(report: Report) -> str:
    made = f"deployfold {report.deployfold_version}, {report.created}"
    return text.clean(f"{report.source.path} ({made})")
