"""The comparison as columns of marked cells, for every renderer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from . import text
from .footnotes import Footnotes
from .model import Report, Row

MIN_SAMPLES = 10
"""Of fewer samples a share of agreement comes in steps of over 10 points, and is not shown."""
LOST_SHARE = 0.01
"""An agreement or an accuracy this much below the original's is marked as lost: one point."""
LOSSY_SQNR_DB = 30.0
"""Below this an artifact's accuracy is marked as lost: the error's RMS is 3 % of the outputs'."""
GROWTH = 1.01
"""A file, or a parameter count, this much greater than the baseline's is marked as lost."""


class Mark(Enum):
    """What a cell says beyond its value."""

    PLAIN = "plain"
    BASELINE = "baseline"
    BEST = "best"
    LOST = "lost"
    ABSENT = "absent"


@dataclass(frozen=True)
class Cell:
    """A value as text, with the superscripts of its footnotes.

    ``detail`` is a line below it, and ``warning`` how that line ends if it has bad news.
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
    """A column of the comparison; ``cells`` are in the order of the report's rows."""

    key: str
    header: str
    cells: tuple[Cell, ...]
    numeric: bool = True

    @property
    def measured(self) -> bool:
        """Some row has a value."""
        return any(cell.mark is not Mark.ABSENT for cell in self.cells)


def columns(report: Report, notes: Footnotes) -> dict[str, Column]:
    """Every column by key, in the order they are shown, with its short forms.

    Agreement with the original (``top1``, ``top5``) and ``accuracy`` are there where a row has
    them, agreement only of :data:`MIN_SAMPLES` samples or more.

    ``parameters`` and ``speedup`` have the narrower forms ``parameters_short`` and
    ``speedup_short``; a renderer shows one of the two.
    """
    build = _Builder(report, notes)
    made = [
        build.titles(),
        build.number("parameters", "parameters", _parameters, text.exact),
        build.number("parameters_short", "params", _parameters, text.short),
        build.number("batchnorm", "BN", _batchnorm, text.exact),
        build.number("size", "size", _bytes, text.size),
        build.time("median", "median ms", _median, text.milliseconds),
        build.time("p95", "p95 ms", _p95, text.milliseconds),
        build.time("throughput", "samples/s", _throughput, text.rate, greatest=True),
        build.speedups("speedup", "speed-up [95 %]", interval=True),
        build.speedups("speedup_short", "speed-up", interval=False),
        build.accuracy("max_diff", "max |Δ|", _max_diff, text.difference),
        build.accuracy("sqnr", "SQNR", _sqnr, text.decibels, greatest=True),
    ]
    if any(_samples(row) >= MIN_SAMPLES for row in report.rows):
        made += [build.share("top1", "top-1", _top1), build.share("top5", "top-5", _top5)]
    made.append(build.share("accuracy", "accuracy", _accuracy))
    optional = {"top1", "top5", "accuracy"}
    made = [one for one in made if one.key not in optional or one.measured]
    return {column.key: column for column in made}


def _parameters(row: Row) -> float | None:
    return row.parameters


def _batchnorm(row: Row) -> float | None:
    return row.batchnorm_layers


def _bytes(row: Row) -> float | None:
    return row.bytes


def _median(row: Row) -> float | None:
    return row.latency.median_ms if row.latency else None


def _p95(row: Row) -> float | None:
    return row.latency.p95_ms if row.latency else None


def _throughput(row: Row) -> float | None:
    return row.latency.throughput if row.latency else None


def _speedup(row: Row) -> float | None:
    return row.latency.speedup.value if row.latency and row.latency.speedup else None


def _max_diff(row: Row) -> float | None:
    return row.accuracy.max_abs_diff if row.accuracy else None


def _sqnr(row: Row) -> float | None:
    return row.accuracy.sqnr_db if row.accuracy else None


def _samples(row: Row) -> int:
    return (row.accuracy.samples or 0) if row.accuracy else 0


def _top1(row: Row) -> float | None:
    return row.accuracy.top1_agreement if row.accuracy else None


def _top5(row: Row) -> float | None:
    return row.accuracy.top5_agreement if row.accuracy else None


def _accuracy(row: Row) -> float | None:
    return row.accuracy.accuracy if row.accuracy else None


@dataclass(frozen=True)
class _Builder:
    report: Report
    notes: Footnotes

    def titles(self) -> Column:
        cells = []
        for index, row in enumerate(self.report.rows):
            marks = self.notes.mark(self.notes.others.get(row.name, ()))
            mark = Mark.BASELINE if index == 0 else Mark.PLAIN
            detail = text.int8(row.int8) if row.int8 else ""
            warning = "uncalibrated" if row.int8 and not row.int8.calibrated else ""
            cells.append(Cell(text.clean(row.title), mark, marks, detail, warning))
        return Column("title", "artifact", tuple(cells), numeric=False)

    def number(
        self,
        key: str,
        header: str,
        value: Callable[[Row], float | None],
        write: Callable[[int | None], str],
    ) -> Column:
        """A count, of which less is better."""
        values = [value(row) for row in self.report.rows]
        best = _best(values, greatest=False)
        base = values[0] if values else None
        cells = []
        for index, one in enumerate(values):
            grown = one is not None and base is not None and one > base * GROWTH
            cells.append(
                Cell(
                    write(None if one is None else int(one)),
                    self._mark(index, one, best, lost=grown),
                )
            )
        return Column(key, header, tuple(cells))

    def time(
        self,
        key: str,
        header: str,
        value: Callable[[Row], float | None],
        write: Callable[[float], str],
        *,
        greatest: bool = False,
    ) -> Column:
        """A time or rate; lost where the row is slower than the baseline beyond doubt."""
        rows = self.report.rows
        values = [value(row) for row in rows]
        best = _best(values, greatest=greatest)
        cells = tuple(
            Cell(
                text.NOTHING if one is None else write(one),
                self._mark(index, one, best, lost=_slower(rows[index])),
            )
            for index, one in enumerate(values)
        )
        return Column(key, header, cells)

    def speedups(self, key: str, header: str, *, interval: bool) -> Column:
        rows = self.report.rows
        decided = [
            _speedup(row) if not _undecided(row) and index else None
            for index, row in enumerate(rows)
        ]
        best = _best([one if one and one > 1 else None for one in decided], greatest=True)
        cells = []
        for index, row in enumerate(rows):
            speedup = row.latency.speedup if row.latency else None
            if row.latency is None:
                mark = self.notes.mark((self.notes.why[row.name],))
                cells.append(Cell("not measured", Mark.ABSENT, mark))
            elif speedup is None:
                cells.append(Cell(text.NOTHING, Mark.ABSENT))
            elif index == 0:
                cells.append(Cell("baseline", Mark.BASELINE))
            else:
                written = text.speedup(speedup, interval=interval)
                mark_ = self._mark(index, decided[index], best, lost=_slower(row))
                cells.append(Cell(written, Mark.PLAIN if speedup.undecided else mark_))
        return Column(key, header, tuple(cells))

    def accuracy(
        self,
        key: str,
        header: str,
        value: Callable[[Row], float | None],
        write: Callable[[float], str],
        *,
        greatest: bool = False,
    ) -> Column:
        """A distance from the original, which has none from itself."""
        values = [value(row) if index else None for index, row in enumerate(self.report.rows)]
        best = _best(values, greatest=greatest)
        cells = []
        for index, one in enumerate(values):
            sqnr = _sqnr(self.report.rows[index])
            lossy = sqnr is not None and not sqnr >= LOSSY_SQNR_DB
            written = text.NOTHING if one is None else write(one)
            cells.append(Cell(written, self._mark(index, one, best, lost=lossy)))
        return Column(key, header, tuple(cells))

    def share(self, key: str, header: str, value: Callable[[Row], float | None]) -> Column:
        """A share of samples, of which more is better; lost where it is below the original's."""
        own = key == "accuracy"  # the original agrees with itself, and has an accuracy of its own
        values = [value(row) if own or i else None for i, row in enumerate(self.report.rows)]
        best = _best(values, greatest=True)
        base = (values[0] if values else None) if own else 1.0
        cells = []
        for index, one in enumerate(values):
            lost = one is not None and base is not None and one < base - LOST_SHARE
            written = text.NOTHING if one is None else text.percent(one)
            cells.append(Cell(written, self._mark(index, one, best, lost=lost)))
        return Column(key, header, tuple(cells))

    def _mark(self, index: int, value: float | None, best: float | None, *, lost: bool) -> Mark:
        if value is None:
            return Mark.ABSENT
        if lost:
            return Mark.LOST
        if best is not None and value == best:
            return Mark.BEST
        return Mark.BASELINE if index == 0 else Mark.PLAIN


def _best(values: Sequence[float | None], *, greatest: bool) -> float | None:
    """The best value if it stands out: held by one row, of two or more that have one."""
    present = [value for value in values if value is not None and not math.isnan(value)]
    if len(present) < 2:
        return None
    best = max(present) if greatest else min(present)
    return best if present.count(best) == 1 else None


def _undecided(row: Row) -> bool:
    speedup = row.latency.speedup if row.latency else None
    return speedup is None or speedup.undecided


def _slower(row: Row) -> bool:
    speedup = row.latency.speedup if row.latency else None
    return speedup is not None and speedup.high < 1.0
