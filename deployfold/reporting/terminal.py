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
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from deployfold.errors import first_few

from . import text
from .column_fit import fit
from .comparison import Cell, Mark, comparison
from .details import Grid, engine_grids, layer_grids
from .fold import HEADERS, FoldedNorm, LeftNorm
from .footnotes import footnotes
from .layer_times import layer_time_grids, untimed
from .report import Report
from .summary import summary_lines

STYLES = {
    Mark.PLAIN: "",
    Mark.BASELINE: "dim",
    Mark.BEST: "bold green",
    Mark.LOST: "red",
    Mark.ABSENT: "dim",
}


@dataclass(frozen=True)
class ComparisonTable:
    """All artifacts, the original first, with footnotes below; fits itself to the console."""

    report: Report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        notes = footnotes(self.report)
        quantized = any(row.quantization for row in self.report.rows)
        layout = fit(comparison(self.report, notes), options.max_width, quantized=quantized)
        # The box draws one of the spaces between columns; the padding is the rest.
        table = Table(
            box=box.SIMPLE_HEAD, padding=(0, layout.gap - 1, 0, 0), pad_edge=False, show_edge=False
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
            table.add_row(_title(first, layout.title_width), *map(_cell, rest))
        yield table
        yield Text()
        for index, sentence in enumerate(notes.numbered, 1):
            yield _hanging(Text(notes.mark((index,))), Text(sentence))
        for line in notes.plain:
            yield Text(line, style="dim")


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


def layer_times_table(report: Report, *, everything: bool = False) -> Group | None:
    """The time of each module of every row that was profiled; ``None`` where none was."""
    grids = layer_time_grids(report, everything=everything)
    parts: list[RenderableType] = [Group(grid_table(grid), Text()) for grid in grids]
    parts += [Text(line, style="dim") for line in untimed(report)]
    return Group(*parts) if parts else None


def layers_table(report: Report) -> Group:
    """Every layer of every quantised model and engine; empty without such rows."""
    return Group(*map(grid_table, (*layer_grids(report), *engine_grids(report))))


def fold_table(report: Report, *, explain: bool = False) -> Table:
    """Every BatchNorm: folded into what by which rule, or left and why.

    Args:
        report: the report; without a fold summary the table is empty.
        explain: show all; else those that were left are grouped by their reason, and a long list
            of folded ones shows its first and last entries only.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for header in HEADERS:
        table.add_column(Text(header, style="bold"), overflow="fold")
    fold = report.fold
    if fold is None:
        return table
    reasons: dict[str, list[LeftNorm]] = {}
    for left in fold.left:
        reasons.setdefault(left.name if explain else left.reason, []).append(left)
    for alike in reasons.values():
        names, why = first_few([left.name for left in alike]), alike[0].reason
        table.add_row(Text(text.clean(names)), Text("left", style="yellow"), Text(text.clean(why)))
    folded = list(fold.folded)
    hidden = 0 if explain or len(folded) <= 8 else len(folded) - 5
    for entry in folded[:4] if hidden else folded:
        _add_folded(table, entry)
    if hidden:
        table.add_row(Text(f"… {hidden} more", style="dim"))
        _add_folded(table, folded[-1])
    return table


def summary_panel(report: Report) -> Panel:
    """The outcome of the build, in a panel of one screen."""
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


def _title(cell: Cell, width: int) -> Text:
    """The title, and below it the summary of a quantised row."""
    words = " ".join(_broken(word, width) for word in cell.text.split(" "))
    title = Text.assemble((words, STYLES[cell.mark]), f" {cell.notes}" if cell.notes else "")
    if cell.detail:
        title.append("\n").append(cell.detail.removesuffix(cell.warning), style="dim")
        title.append(cell.warning, style="red")
    return title


def _broken(word: str, width: int) -> str:
    """A word, broken after its hyphens where it is wider than the column."""
    if cell_len(word) <= width:
        return word
    lines = [""]
    for part in re.findall(r"[^-]*-|[^-]+", word):
        if lines[-1] and cell_len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


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
    console.print(ComparisonTable(report))
    drawn = console.export_svg(title=f"deployfold: {text.clean(report.source.path)}")
    return re.sub(r"@font-face\s*{.*?}", "", drawn, flags=re.S)
