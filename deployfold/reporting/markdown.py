"""The report as GitHub Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from . import text
from .comparison import Cell, Mark, comparison
from .details import Grid, cold_start_grid, engine_grids, layer_grids, stages_grid, sweep_grid
from .fold import HEADERS, FoldSummary
from .footnotes import footnotes
from .recommendation import recommend
from .report import Report
from .summary import summary_lines


def render_markdown(report: Report) -> str:
    """``report.md``: what to take, the comparison, its footnotes and what was folded.

    The best cell of a column is bold. Names are escaped: they cannot end a table cell, nor make
    links, images or HTML.
    """
    verdict = f"**{escape(recommend(report).sentence)}**"
    parts = [f"# {escape(report.source.path)}", verdict, _identity(report)]
    parts.append(
        "\n".join(f"- {line.label}: {escape(line.value)}" for line in summary_lines(report))
    )
    if report.rows:
        parts.append(_comparison(report))
    notes = footnotes(report)
    lines = [f"{notes.mark((i,))} {escape(note)}" for i, note in enumerate(notes.numbered, 1)]
    lines += [escape(line) for line in notes.plain]
    parts.append("  \n".join(lines))
    parts += [_grid(grid) for grid in (sweep_grid(report), cold_start_grid(report)) if grid]
    parts += [_layers(grid) for grid in (*layer_grids(report), *engine_grids(report))]
    if report.fold is not None and (report.fold.folded or report.fold.left):
        parts.append(_fold(report.fold))
    stages = stages_grid(report)
    if stages is not None:
        parts.append(_grid(stages))
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(value: str) -> str:
    """``value`` as literal text on one line of GitHub Markdown, also inside a table cell."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!&])", r"\\\1", text.clean(value))


def _identity(report: Report) -> str:
    source = report.source
    parts = [source.kind, source.arch, source.sha256 and f"SHA-256 {source.sha256}"]
    made = f"deployfold {report.deployfold_version}, {report.created}"
    return escape(" · ".join([part for part in parts if part] + [made]))


def _comparison(report: Report) -> str:
    shown = comparison(report, footnotes(report)).columns
    rows = zip(*(map(_cell, column.cells) for column in shown), strict=True)
    headers, numeric = ([one.header for one in shown], [one.numeric for one in shown])
    return "\n".join(table_lines(headers, numeric, rows))


def _cell(cell: Cell) -> str:
    written = f"**{escape(str(cell))}**" if cell.mark is Mark.BEST else escape(str(cell))
    return f"{written} – {escape(cell.detail)}" if cell.detail else written


def _grid(grid: Grid) -> str:
    lines = table_lines(grid.headers, grid.numeric, (map(_cell, row) for row in grid.rows))
    below = "  \n".join(escape(note) for note in grid.notes)
    return "\n".join([f"## {escape(grid.title)}", "", *lines, *(["", below] if below else [])])


def _layers(grid: Grid) -> str:
    """The layers of a quantised model in a closed block, since there can be hundreds."""
    table = _grid(grid).partition("\n")[2]
    summary = f"<summary>{html.escape(text.clean(grid.title))}</summary>"
    return "\n".join(["<details>", summary, table, "", "</details>"])


def _fold(fold: FoldSummary) -> str:
    rows = [(one.name, "left", one.reason) for one in fold.left]
    rows += [(one.name, one.into, one.rule) for one in fold.folded]
    table = table_lines(HEADERS, (False,) * 3, (map(escape, row) for row in rows))
    summary = f"<summary>{fold.outcome} folded</summary>"
    return "\n".join(["<details>", summary, "", *table, "", "</details>"])


def table_lines(
    headers: Sequence[str], numeric: Sequence[bool], rows: Iterable[Iterable[str]]
) -> list[str]:
    """The lines of a table; the cells are Markdown already, the headers are not."""
    marks = ("---:" if right else "---" for right in numeric)
    lines = (map(escape, headers), marks, *rows)
    return [f"| {' | '.join(cells)} |" for cells in lines]
