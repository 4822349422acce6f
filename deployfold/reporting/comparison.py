"""The comparison table of a report as columns of marked cells, for every renderer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from . import text
from .footnotes import Footnotes
from .metrics import Metric, metrics_of
from .report import Report
from .row import Row


class Mark(Enum):
    """How a cell's value compares with the others."""

    PLAIN = "plain"
    BASELINE = "baseline"
    BEST = "best"
    LOST = "lost"
    ABSENT = "absent"


@dataclass(frozen=True)
class Cell:
    """A value as text, with the superscripts of its footnotes.

    ``detail`` is a line below the value, and ``warning`` the end of that line if it is bad news.
    """

    text: str
    mark: Mark = Mark.PLAIN
    notes: str = ""
    detail: str = ""
    warning: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.notes}" if self.notes else self.text


@dataclass(frozen=True)
class Column:
    """A column of the comparison; ``cells`` are in the order of the report's rows.

    A ``numeric`` column is aligned to the right.
    """

    header: str
    cells: tuple[Cell, ...]
    numeric: bool = False


@dataclass(frozen=True)
class MetricColumn(Column):
    """The column of a metric. ``narrow`` is the same column in fewer cells."""

    numeric: bool = True
    metric: Metric = field(kw_only=True)
    narrow: MetricColumn | None = None


@dataclass(frozen=True)
class Comparison:
    """The column of titles, and the columns of the metrics."""

    titles: Column
    metrics: tuple[MetricColumn, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """All columns, in the order shown."""
        return (self.titles, *self.metrics)


def comparison(report: Report, notes: Footnotes) -> Comparison:
    """The titles and every metric that the report's rows have enough of, in the order shown."""
    metrics = [metric for metric in metrics_of(report.rows) if metric.in_table]
    shown = [metric for metric in metrics if metric.shown(report.rows)]
    return Comparison(
        _titles(report, notes), tuple(_column(metric, report, notes) for metric in shown)
    )


def _titles(report: Report, notes: Footnotes) -> Column:
    cells = []
    for index, row in enumerate(report.rows):
        marks = notes.mark(notes.others.get(row.name, ()))
        mark = Mark.BASELINE if index == 0 else Mark.PLAIN
        summary = row.quantization
        detail = text.quantization(summary) if summary else ""
        warning = "uncalibrated" if summary and not summary.calibrated else ""
        cells.append(Cell(text.clean(row.title), mark, marks, detail, warning))
    return Column("artifact", tuple(cells))


def _column(metric: Metric, report: Report, notes: Footnotes) -> MetricColumn:
    rows = report.rows
    best = _best(metric, rows)
    cells, narrow = [], []
    for index, row in enumerate(rows):
        mark = _mark(metric, rows, index, best)
        cells.append(_cell(metric, row, index, mark, notes))
        if metric.narrow is not None:
            wide = cells[-1]
            written = metric.narrow.cell(row) if mark is not Mark.ABSENT else wide.text
            plain = index == 0 and metric.baseline_cell is not None
            narrow.append(Cell(wide.text if plain else written, mark, wide.notes))
    short = None
    if metric.narrow is not None:
        short = MetricColumn(metric.narrow.header, tuple(narrow), metric=metric)
    return MetricColumn(metric.header, tuple(cells), metric=metric, narrow=short)


def _cell(metric: Metric, row: Row, index: int, mark: Mark, notes: Footnotes) -> Cell:
    if metric.refers_to_reason and row.latency is None:
        return Cell("not measured", Mark.ABSENT, notes.mark((notes.why[row.name],)))
    if mark is Mark.ABSENT:
        return Cell(text.NOTHING, mark)
    if index == 0 and metric.baseline_cell is not None:
        return Cell(metric.baseline_cell, mark)
    return Cell(metric.write_cell(row), mark)


def _mark(metric: Metric, rows: Sequence[Row], index: int, best: float | None) -> Mark:
    row, value = rows[index], _value(metric, rows, index)
    if value is None:
        return Mark.ABSENT
    if index == 0 and metric.baseline_cell is not None:
        return Mark.BASELINE
    if metric.lost(row, rows[0]):
        return Mark.LOST
    if best is not None and value == best and metric.contends(row):
        return Mark.BEST
    return Mark.BASELINE if index == 0 else Mark.PLAIN


def _value(metric: Metric, rows: Sequence[Row], index: int) -> float | None:
    return None if index == 0 and metric.from_original else metric.read(rows[index])


def _best(metric: Metric, rows: Sequence[Row]) -> float | None:
    """The best value, if two or more rows have one and only one row has the best."""
    values = [
        _value(metric, rows, index) if metric.contends(row) else None
        for index, row in enumerate(rows)
    ]
    present = [value for value in values if value is not None and not math.isnan(value)]
    if len(present) < 2:
        return None
    best = max(present) if metric.better == "more" else min(present)
    return best if present.count(best) == 1 else None
