"""Which rows of a report are shown, and in what order."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Sequence

from deployfold.errors import UsageError

from . import text
from .model import Report, Row

Key = Callable[[Row], "float | None"]

SORT_KEYS: dict[str, tuple[Key, bool]] = {
    "parameters": (lambda row: row.parameters, False),
    "bn": (lambda row: row.batchnorm_layers, False),
    "size": (lambda row: row.bytes, False),
    "median": (lambda row: row.latency.median_ms if row.latency else None, False),
    "p95": (lambda row: row.latency.p95_ms if row.latency else None, False),
    "throughput": (lambda row: row.latency.throughput if row.latency else None, True),
    "speedup": (
        lambda row: row.latency.speedup.value if row.latency and row.latency.speedup else None,
        True,
    ),
    "diff": (lambda row: row.accuracy.max_abs_diff if row.accuracy else None, False),
    "sqnr": (lambda row: row.accuracy.sqnr_db if row.accuracy else None, True),
    "accuracy": (lambda row: row.accuracy.accuracy if row.accuracy else None, True),
    "cold": (lambda row: row.cold_start.total_ms if row.cold_start else None, False),
}
"""What ``--sort`` takes: the value of a row, and whether the greatest comes first."""


def sorted_by(report: Report, column: str) -> Report:
    """The report with the original first, then the best of ``column``; rows without it come last.

    Raises:
        UsageError: there is no such column.
    """
    check_column(column)
    key, greatest = SORT_KEYS[column]

    def place(row: Row) -> tuple[bool, float]:
        value = key(row)
        if value is None or math.isnan(value):
            return True, 0.0
        return False, -value if greatest else value

    rows = (*report.rows[:1], *sorted(report.rows[1:], key=place))
    return report.model_copy(update={"rows": rows})


def check_column(column: str) -> None:
    """Refuse a column that :func:`sorted_by` does not know.

    Raises:
        UsageError: there is no such column.
    """
    if column not in SORT_KEYS:
        raise UsageError(
            f"There is no column {text.clean(column)!r} to sort by.",
            hint=f"Use one of: {', '.join(SORT_KEYS)}.",
        )


def only_rows(report: Report, names: Iterable[str]) -> Report:
    """The report with these rows alone, and the original, which the others are compared with.

    Raises:
        UsageError: a name is none of its rows.
    """
    kept = chosen([row.name for row in report.rows], names)
    rows = tuple(row for row in report.rows if row.name in kept)
    return report.model_copy(update={"rows": rows})


def chosen(rows: Sequence[str], names: Iterable[str]) -> frozenset[str]:
    """The first of ``rows`` and those in ``names``; all of them if there are no names.

    Raises:
        UsageError: a name is none of ``rows``.
    """
    wanted = list(names)
    for name in wanted:
        if name not in rows:
            near = difflib.get_close_matches(name, rows, n=1)
            guess = f" Did you mean {near[0]}?" if near else ""
            raise UsageError(
                f"There is no row {text.clean(name)!r}.{guess}",
                hint=f"The rows are {', '.join(rows)}.",
            )
    return frozenset([*rows[:1], *wanted]) if wanted else frozenset(rows)
