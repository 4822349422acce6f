"""Selects and sorts the rows of a report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from deployfold.errors import UsageError, nearest

from . import text
from .metrics import METRICS, SCORE, Metric, find_metric
from .report import Report
from .row import Row


def sorted_by(report: Report, column: str) -> Report:
    """The report with the original first, then the best of ``column``; rows without it come last.

    Raises:
        UsageError: no metric has that key.
    """
    metric = check_column(column)

    def place(row: Row) -> tuple[bool, float]:
        value = metric.read(row)
        if value is None or math.isnan(value):
            return True, 0.0
        return False, -value if metric.better == "more" else value

    rows = (*report.rows[:1], *sorted(report.rows[1:], key=place))
    return report.model_copy(update={"rows": rows})


def check_column(column: str) -> Metric:
    """The metric that :func:`sorted_by` sorts by.

    Raises:
        UsageError: no metric has that key.
    """
    metric = find_metric(column)
    if metric is None:
        raise UsageError(
            f"There is no column {text.clean(column)!r} to sort by.",
            hint=f"Use one of: {', '.join(METRICS)}; or {SCORE}NAME of a task metric.",
        )
    return metric


def only_rows(report: Report, names: Iterable[str]) -> Report:
    """The report with these rows alone, and the original, which the others are compared with.

    Raises:
        UsageError: the report has no row of a name.
    """
    kept = selected_names([row.name for row in report.rows], names)
    rows = tuple(row for row in report.rows if row.name in kept)
    return report.model_copy(update={"rows": rows})


def selected_names(rows: Sequence[str], names: Iterable[str]) -> frozenset[str]:
    """The first of ``rows`` and those in ``names``; all of them if there are no names.

    Raises:
        UsageError: a name is not in ``rows``.
    """
    wanted = list(names)
    for name in wanted:
        if name not in rows:
            raise UsageError(
                f"There is no row {text.clean(name)!r}. {nearest(name, rows)}".strip(),
                hint=f"The rows are {', '.join(rows)}.",
            )
    return frozenset([*rows[:1], *wanted]) if wanted else frozenset(rows)
