"""The report on a terminal: the comparison, what was folded, and a summary, as rich renderables.

All text from a report goes through :func:`.text.clean` into ``Text`` objects, so that neither rich
markup nor terminal escapes in a name are obeyed.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from . import text
from .columns import Cell, Column, Mark, columns
from .footnotes import footnotes
from .grids import Grid, cold_start_grid, layer_grids, sweep_grid
from .model import FoldedNorm, Report
from .summary import summary_lines

STYLES = {
    Mark.PLAIN: "",
    Mark.BASELINE: "dim",
    Mark.BEST: "bold green",
    Mark.LOST: "red",
    Mark.ABSENT: "dim",
}
WIDE_GAP = 2
"""Spaces between columns, where there is room."""
TITLES = {"long title": 28, "title": 16, "short title": 10}
"""How narrow titles are wrapped at each step of the reductions below."""

Reductions = tuple[tuple[str, str | None], ...]
"""What goes when the terminal is narrow, the first first: a column, and its narrower form."""

_REDUCTIONS: Reductions = (
    ("throughput", None),
    ("parameters", "parameters_short"),
    ("long title", None),
    ("p95", None),
    ("top5", None),
    ("sqnr", None),
    ("gap", None),
    ("title", None),  # wrapped, never dropped
    ("parameters_short", None),
    ("batchnorm", None),
    ("speedup", "speedup_short"),
    ("size", None),
    ("top1", None),
    ("max_diff", None),
    ("accuracy", None),
    ("short title", None),
)


@dataclass(frozen=True)
class ComparisonTable:
    """The comparison, one row an artifact, with footnotes; it fits itself to the console."""

    report: Report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        notes = footnotes(self.report)
        layout = _fit(columns(self.report, notes), options.max_width, _reductions(self.report))
        # The box draws one of the spaces between columns; the padding is the rest.
        table = Table(
            box=box.SIMPLE_HEAD,
            padding=(0, layout.gap - 1, 0, 0),
            pad_edge=False,
            show_edge=False,
        )
        for column in layout.columns:
            table.add_column(
                Text(column.header, style="bold"),
                justify="right" if column.numeric else "left",
                no_wrap=column.numeric,
                overflow="ellipsis" if column.numeric else "fold",
                width=None if column.numeric else layout.title_width,
            )
        for row in zip(*(column.cells for column in layout.columns), strict=True):
            first, *rest = row
            table.add_row(_title(first), *map(_cell, rest))
        yield table
        yield Text()
        for index, sentence in enumerate(notes.numbered, 1):
            yield _hanging(Text(notes.mark((index,))), Text(sentence))
        for line in notes.plain:
            yield Text(line, style="dim")


def comparison_table(report: Report) -> ComparisonTable:
    """The comparison of all artifacts, the original first, with footnotes below."""
    return ComparisonTable(report)


def grid_table(grid: Grid) -> Group:
    """A smaller table of the report with its title and the lines below it."""
    gap = 2 if len(grid.headers) < 7 else 1
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, gap - 1, 0, 0))
    for header, numeric in zip(grid.headers, grid.numeric, strict=True):
        table.add_column(
            Text(header, style="bold"),
            justify="right" if numeric else "left",
            no_wrap=numeric,
            overflow="fold",
        )
    for row in grid.rows:
        table.add_row(*map(_cell, row))
    notes = [Text(note, style="dim") for note in grid.notes]
    title = [Text(grid.title, style="bold")] if grid.title else []
    return Group(*title, table, *notes)


def sweep_table(report: Report) -> Group | None:
    """Throughput by batch size; ``None`` where no sweep was measured."""
    grid = sweep_grid(report)
    return None if grid is None else grid_table(grid)


def cold_start_table(report: Report) -> Group | None:
    """Cold start and peak memory; ``None`` where they were not measured."""
    grid = cold_start_grid(report)
    return None if grid is None else grid_table(grid)


def layers_table(report: Report) -> Group:
    """Every layer of every INT8 row, the worst first, for ``--layers``; empty without such rows."""
    return Group(*(grid_table(grid) for grid in layer_grids(report)))


def fold_table(report: Report, *, explain: bool = False) -> Table:
    """Every BatchNorm: folded into what by which rule, or left and why.

    Args:
        report: the report; without a fold summary the table is empty.
        explain: show all; else long lists show their first and last entries only.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for header in ("BatchNorm", "into", "rule, or why it was left"):
        table.add_column(Text(header, style="bold"), overflow="fold")
    fold = report.fold
    if fold is None:
        return table
    for left in fold.left if explain else fold.left[:12]:
        table.add_row(
            Text(text.clean(left.name)), Text("left", style="yellow"), Text(text.clean(left.reason))
        )
    if not explain and len(fold.left) > 12:
        table.add_row(Text(f"… {len(fold.left) - 12} more left", style="dim"))
    folded = list(fold.folded)
    hidden = 0 if explain or len(folded) <= 8 else len(folded) - 5
    for entry in folded[:4] if hidden else folded:
        _add_folded(table, entry)
    if hidden:
        table.add_row(Text(f"… {hidden} more", style="dim"))
        _add_folded(table, folded[-1])
    return table


def summary_panel(report: Report) -> Panel:
    """What came of the build, in a panel of one screen."""
    status = report.status.state
    style = {"complete": "green", "interrupted": "yellow", "failed": "red"}[status]
    lines = [
        _hanging(Text(f"{line.label:<9}", style="bold"), Text(line.value, style=_TONES[line.tone]))
        for line in summary_lines(report)
    ]
    return Panel(
        Group(*lines),
        title=Text(text.clean(report.source.path), style="bold"),
        title_align="left",
        border_style=style,
    )


_TONES = {"plain": "", "good": "green", "bad": "red", "warn": "yellow"}


def _add_folded(table: Table, entry: FoldedNorm) -> None:
    table.add_row(
        Text(text.clean(entry.name)),
        Text(text.clean(entry.into)),
        Text(text.clean(entry.rule), style="dim"),
    )


def _cell(cell: Cell) -> Text:
    return Text(str(cell), style=STYLES[cell.mark])


def _title(cell: Cell) -> Text:
    """The title, and below it what there is to say of the whole row."""
    title = Text.assemble((cell.text, STYLES[cell.mark]), f" {cell.notes}" if cell.notes else "")
    if cell.detail:
        title.append("\n").append(cell.detail.removesuffix(cell.warning), style="dim")
        title.append(cell.warning, style="red")
    return title


def _hanging(label: Text, value: Text) -> Table:
    """A label in a column of its own, so that a long value wraps beside it."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(label, value)
    return grid


def table_svg(report: Report, *, width: int = 100) -> str:
    """The comparison as the SVG picture of a terminal of ``width`` columns; it loads no fonts."""
    console = Console(
        record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor",
        legacy_windows=False,
    )  # fmt: skip
    console.print(comparison_table(report))
    drawn = console.export_svg(title=f"deployfold: {text.clean(report.source.path)}")
    return re.sub(r"@font-face\s*{.*?}", "", drawn, flags=re.S)


@dataclass(frozen=True)
class _Layout:
    columns: tuple[Column, ...]
    title_width: int
    gap: int


def _reductions(report: Report) -> Reductions:
    """Quantised models are told apart by SQNR, the others by the largest difference."""
    if not any(row.int8 for row in report.rows):
        return _REDUCTIONS
    other = {"sqnr": "max_diff", "max_diff": "sqnr"}
    return tuple((other.get(key, key), narrower) for key, narrower in _REDUCTIONS)


def _fit(available: dict[str, Column], width: int, reductions: Reductions) -> _Layout:
    """What to show in ``width`` cells."""
    shown = {key: column for key, column in available.items() if not key.endswith("_short")}
    title_width, gap = _width(shown["title"]), WIDE_GAP
    for key, narrower in reductions:
        if key not in shown and key != "gap" and key not in TITLES:
            continue
        over = _total(shown, title_width, gap) - width
        if over <= 0:
            break
        if key == "gap":
            gap = 1
        elif key in TITLES:
            title_width = max(min(title_width, TITLES[key]), title_width - over)
        elif narrower is None:
            del shown[key]
        else:
            shown = {
                (narrower if name == key else name): (
                    available[narrower] if name == key else column
                )
                for name, column in shown.items()
            }
    return _Layout(tuple(shown.values()), title_width, gap)


def _total(shown: dict[str, Column], title_width: int, gap: int) -> int:
    widths = [title_width if key == "title" else _width(column) for key, column in shown.items()]
    return sum(widths) + gap * (len(widths) - 1)


def _width(column: Column) -> int:
    return max(cell_len(value) for value in (column.header, *map(str, column.cells)))
