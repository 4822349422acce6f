"""Judges every figure of two reports: whether it moved beyond noise and beyond its tolerance."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from deployfold.errors import UsageError
from deployfold.reporting import text
from deployfold.reporting.intervals import Bounds
from deployfold.reporting.metrics import Metric, metrics_of
from deployfold.reporting.report import Report, ThresholdResult
from deployfold.reporting.row import Row

from .changes import Change, Changes, Verdict
from .comparability import Differences, differences
from .tolerances import DEFAULTS, ROWS, Tolerance, tolerance_for

INDISTINCT = 1e-9
"""Relative difference below which two figures without noise are equal: JSON rounds them."""


def compare_reports(
    old: Report,
    new: Report,
    tolerances: Iterable[Tolerance] = DEFAULTS,
    *,
    limits: tuple[ThresholdResult, ...] = (),
    strict: bool = False,
) -> Changes:
    """Compare every row of ``new`` with the row of that name in ``old``.

    1. A figure without noise moved if its two values differ.
    2. A figure with noise moved if its two 95 % intervals do not overlap and the change exceeds the
       metric's drift (``Metric.drift``).
    3. A figure is unjudged if an interval is missing. A figure that depends on the machine is
       unjudged if the machines, threads or input shapes differ; a figure that depends on the inputs
       is unjudged if the inputs differ.
    4. An unjudged or missing figure is a regression if the user set a tolerance for it.

    Args:
        tolerances: see :func:`.tolerances.parse_tolerances`.
        limits: results of :func:`deployfold.reporting.thresholds.check` on the rows of ``new``.
        strict: whether an unjudged figure with a limit fails.

    Raises:
        UsageError: a tolerance names a row that neither report has.
    """
    tolerances = tuple(tolerances)
    different = differences(old, new)
    before = {row.name: row for row in old.rows}
    after = {row.name: row for row in new.rows}
    _check_names(tolerances, [*before, *after])
    found = _unfinished(new)
    for name, row in after.items():
        if name in before:
            found += _compare_row(before[name], row, tolerances, different)
        else:
            found.append(Change(row=name, title=_title(row), metric=ROWS, verdict="new"))
    for name, row in before.items():
        if name not in after:
            found.append(_lost(row, "the row is gone", tolerances))
    return Changes(
        old=_identity(old),
        new=_identity(new),
        differences=different.sentences,
        changes=(*found, *_missing(tolerances, found)),
        rows_gone=tuple(name for name in before if name not in after),
        rows_new=tuple(name for name in after if name not in before),
        limits=limits,
        strict=strict,
    )


def _check_names(tolerances: tuple[Tolerance, ...], rows: list[str]) -> None:
    for one in tolerances:
        if one.row is not None and one.row not in rows:
            raise UsageError(
                f"Neither report has a row {text.clean(one.row)!r}.",
                hint=f"The rows are {text.clean(', '.join(dict.fromkeys(rows)))}.",
            )


def _unfinished(new: Report) -> list[Change]:
    if new.status.state == "complete":
        return []
    reason = text.clean(str(new.status.model_copy(update={"message": None})))
    return [Change(row="", title="the build", metric=ROWS, verdict="regression", reason=reason)]


def _missing(tolerances: tuple[Tolerance, ...], found: list[Change]) -> list[Change]:
    """A regression for every tolerance of the user that applies to no figure."""
    missing = []
    for one in tolerances:
        held = any(c.metric == one.metric and one.row in (c.row, None) for c in found)
        if one.asked and one.limited and not held:
            missing.append(
                Change(
                    row=one.row or "", title=text.clean(one.row or "every row"), metric=one.metric,
                    verdict="regression", limit=str(one), reason="not measured in either report",
                )
            )  # fmt: skip
    return missing


def _compare_row(
    old: Row, new: Row, tolerances: tuple[Tolerance, ...], different: Differences
) -> list[Change]:
    found = []
    if old.latency is not None and new.latency is None:
        why = f"no longer measured: {new.not_measured or text.NO_REASON}"
        found.append(_lost(new, why, tolerances))
    for metric in metrics_of((old, new)):
        tolerance = tolerance_for(tolerances, new.name, metric.key)
        if metric.follows is not None and not (tolerance and tolerance.asked):
            continue
        before, after = metric.read(old), metric.read(new)
        if before is None and after is None and not _unsettled(metric, old, new):
            continue
        if after is None and metric.depends_on == "machine" and new.latency is None and found:
            continue  # the line of the row reports it
        found.append(_judge(old, new, metric, tolerance, different.between(metric.depends_on)))
    return found


def _judge(
    old: Row, new: Row, metric: Metric, tolerance: Tolerance | None, different: list[str]
) -> Change:
    before, after = metric.read(old), metric.read(new)
    limit = str(tolerance) if tolerance is not None and tolerance.limited else None
    verdict: Verdict
    reason = None
    if (before is None or after is None) and not _unsettled(metric, old, new):
        lost = before is not None and limit is not None
        verdict = "regression" if lost else "new" if before is None else "worse"
        reason = "no longer measured" if before is not None else "not measured before"
    elif isinstance(pair := _pair(metric, old, new, different), str):
        reason = pair
        asked = tolerance is not None and tolerance.asked and limit is not None
        verdict = "regression" if asked else "unjudged"
    else:
        same = metric.alike(old, new) or pair.within_noise(metric.drift)
        verdict = "same" if same else _verdict(metric, pair, tolerance)
    return Change(
        row=new.name, title=_title(new), metric=metric.key, old=before, new=after,
        verdict=verdict, limit=limit, reason=reason,
    )  # fmt: skip


def _unsettled(metric: Metric, old: Row, new: Row) -> bool:
    """Whether both rows were measured, but one of them in too few rounds."""
    known = [metric.read(row) is not None or metric.unsettled(row) for row in (old, new)]
    return all(known) and (metric.unsettled(old) or metric.unsettled(new))


@dataclass(frozen=True)
class _Pair:
    """A figure of both reports. ``intervals`` is ``None`` for a figure without noise."""

    before: float
    after: float
    intervals: tuple[Bounds, Bounds] | None = None

    def within_noise(self, drift: float) -> bool:
        """Whether noise alone may explain the difference."""
        before, after = self.before, self.after
        if math.isnan(before) or math.isnan(after):
            return math.isnan(before) and math.isnan(after)
        if before == after:
            return True
        if abs(after - before) <= drift * before:
            return True
        if self.intervals is None:
            return math.isclose(before, after, rel_tol=INDISTINCT)
        first, second = self.intervals
        return first[0] <= second[1] and second[0] <= first[1]


def _pair(metric: Metric, old: Row, new: Row, different: list[str]) -> _Pair | str:
    """The two values of a figure with their intervals, or why they cannot be judged."""
    if different:
        return f"not comparable: {different[0]}"
    before, after = metric.read(old), metric.read(new)
    if before is not None and after is not None:
        if metric.interval is None or before == after:
            return _Pair(before, after)
        first, second = metric.interval(old), metric.interval(new)
        if first is not None and second is not None:
            return _Pair(before, after, (first, second))
    lacking = [
        f"the {which} one ({row.latency.rounds} rounds)"
        for which, row in (("old", old), ("new", new))
        if row.latency is not None and metric.interval is not None and metric.interval(row) is None
    ]
    return f"no 95 % interval in {' and '.join(lacking)}"


def _verdict(metric: Metric, pair: _Pair, tolerance: Tolerance | None) -> Verdict:
    worse_by = pair.before - pair.after if metric.better == "more" else pair.after - pair.before
    if math.isnan(worse_by):  # a value is NaN: the change is for the worse if the new one is
        worse_by = math.inf if math.isnan(pair.after) else -math.inf
    if worse_by < 0:
        return "better"
    exceeded = tolerance is not None and tolerance.exceeded(pair.before, worse_by)
    return "regression" if exceeded else "worse"


def _lost(row: Row, why: str, tolerances: tuple[Tolerance, ...]) -> Change:
    """The change of a row that lost its latency."""
    tolerance = tolerance_for(tolerances, row.name, ROWS)
    held = tolerance is not None and tolerance.limited
    return Change(
        row=row.name, title=_title(row), metric=ROWS,
        verdict="regression" if held else "worse", reason=text.clean(why),
    )  # fmt: skip


def _title(row: Row) -> str:
    return text.clean(row.title)


def _identity(report: Report) -> str:
    made = f"deployfold {report.deployfold_version}, {report.created}"
    return text.clean(f"{report.source.path} ({made})")
