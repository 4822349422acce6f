"""Several reports side by side: what to take of each, in one table."""

from __future__ import annotations

from collections.abc import Sequence

from . import text
from .comparison import Cell, Mark
from .details import Grid
from .metrics import METRICS, Metric
from .recommendation import recommend
from .report import Report
from .row import Row

_SHOWN = ("latency", "speedup", "sqnr", "accuracy", "size", "batchnorm")
"""The metrics of the table, by key."""


def overview_grid(reports: Sequence[Report]) -> Grid:
    """One row for each report, in the order given, with a note on what cannot be compared."""
    choices = [recommend(report) for report in reports]
    metrics = [
        METRICS[key]
        for key in _SHOWN
        if any(one.row is not None and METRICS[key].read(one.row) is not None for one in choices)
    ]
    rows = tuple(
        (
            Cell(text.clean(report.source.path)),
            Cell(_minute(report)),
            Cell(choice.sentence, Mark.ABSENT)
            if choice.row is None
            else Cell(text.clean(choice.row.title)),
            *(_value(metric, choice.row) for metric in metrics),
        )
        for report, choice in zip(reports, choices, strict=True)
    )
    headers = ("model", "made", "take", *(metric.header for metric in metrics))
    numeric = (False, True, False, *(True for _ in metrics))
    return Grid("reports", headers, numeric, rows, tuple(_notes(reports)))


def report_names(reports: Sequence[Report]) -> list[str]:
    """A name for each report: its model, with the time where several are of one model."""
    models = [text.clean(report.source.path) for report in reports]
    return [
        model if models.count(model) == 1 else f"{model}, {_minute(report)}"
        for model, report in zip(models, reports, strict=True)
    ]


def _minute(report: Report) -> str:
    """``2026-01-02 03:04``, in UTC as in the report."""
    return text.clean(report.created)[:16].replace("T", " ")


def _value(metric: Metric, row: Row | None) -> Cell:
    if row is None or metric.read(row) is None:
        return Cell(text.NOTHING, Mark.ABSENT)
    return Cell(metric.write_cell(row))


def _notes(reports: Sequence[Report]) -> list[str]:
    machines = {text.machine(report) for report in reports}
    if len(machines) == 1:
        return []
    return [
        f"These reports come from {len(machines)} different machines or versions of the runtimes:"
        " compare latencies within a report only."
    ]
