"""Prints reports and plans on a terminal or as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .session import Session

if TYPE_CHECKING:
    from deployfold.building.dry_run import BuildPlan
    from deployfold.reporting.report import Report
    from deployfold.reporting.row import Row


def write_page(reports: Sequence[tuple[Report, Path]], path: Path) -> None:
    """Write one HTML page of reports, each with the directory of its artifacts.

    Raises:
        UsageError: a package for HTML is not installed, or the page cannot be written.
    """
    from deployfold.config import row_names
    from deployfold.reporting.html import read_outline, render_pages
    from deployfold.util.files import write_text

    pages = []
    for report, directory in reports:
        onnx = next((row for row in report.rows if row.name == row_names.FP32_ONNX), None)
        graph = directory / Path(onnx.artifact).name if onnx and onnx.artifact else None
        pages.append((report, read_outline(graph) if graph and graph.is_file() else None))
    write_text(path, render_pages(pages))


def show_report(
    session: Session,
    report: Report,
    directory: Path | None,
    *,
    sort: str | None = None,
    only: Sequence[str] = (),
    layers: bool = False,
    benched: Sequence[Path] = (),
) -> None:
    """Print the table, the summary and what to do next, or only the JSON.

    Args:
        session: the command's session.
        directory: the directory of a build; ``None`` if the artifacts are single files.
        sort: the metric whose best rows are first; see :mod:`deployfold.reporting.select`.
        only: names of the rows to show in addition to the original; empty for all.
        layers: also list the layers of quantised rows.
        benched: the directory or files that were just measured; empty for a build.

    Raises:
        UsageError: ``sort`` is not a metric, or a name in ``only`` is not a row.
    """
    from deployfold.reporting.details import cold_start_grid, sweep_grid
    from deployfold.reporting.select import only_rows, sorted_by
    from deployfold.reporting.terminal import (
        ComparisonTable,
        fold_table,
        grid_table,
        layer_times_table,
        layers_table,
        summary_panel,
    )

    shown = only_rows(report, only) if only else report
    shown = sorted_by(shown, sort) if sort else shown
    if session.json:
        session.out.file.write(shown.to_json())
        return
    if session.quiet:
        return
    session.out.print()
    session.out.print(ComparisonTable(shown))
    tables = [grid_table(grid) for grid in (sweep_grid(shown), cold_start_grid(shown)) if grid]
    if (timed := layer_times_table(shown, everything=session.verbose)) is not None:
        tables.append(timed)
    if layers and any(row.quantization or row.engine_layers for row in shown.rows):
        tables.append(layers_table(shown))
    for table in tables:
        session.out.print()
        session.out.print(table)
    if session.verbose or (report.fold is not None and report.fold.left):
        session.out.print(fold_table(report, explain=session.verbose))
    session.out.print(summary_panel(shown))
    for line, copied in closing_lines(report, directory, benched):
        session.out.print(line, soft_wrap=copied, markup=False)


def show_overview(session: Session, reports: Sequence[Report]) -> None:
    """Print one table of several reports."""
    from deployfold.reporting.overview import overview_grid
    from deployfold.reporting.terminal import grid_table

    session.out.print(grid_table(overview_grid(reports)))


def closing_lines(
    report: Report, directory: Path | None, benched: Sequence[Path] = ()
) -> list[tuple[str, bool]]:
    """The last lines of a command: the recommended artifact, its path, and the next commands.

    Args:
        report, directory, benched: as for :func:`show_report`.

    Returns:
        Each line, and whether it holds a path or a command that users copy: such a line must not
        be wrapped.
    """
    import shlex

    from deployfold.finish.kit import FINISH_JSON
    from deployfold.reporting.recommendation import recommend
    from deployfold.reporting.text import clean

    choice = recommend(report)
    file = None
    if choice.row is not None and choice.row.artifact is not None:
        if directory is not None:
            file = directory / choice.row.artifact
        else:
            file = _measured_file(choice.row, benched)
    lines = [(choice.sentence if choice.row is None else f"Take {choice.sentence}", False)]
    beside = "" if directory is None else "; report.json is beside it"
    if file is not None:
        lines.append((f"Its file is {file}{beside}.", True))
    elif directory is not None:
        lines.append((f"Artifacts and report.json: {directory}", True))
    unknown = [clean(row.title) for row in report.rows if row.latency is None]
    if choice.row is not None and unknown:
        sentence = f"Not measured here: {'; '.join(unknown)}. The footnotes have the reasons."
        lines.append((sentence, False))
    steps = []
    if file is not None:
        steps.append((f"deployfold run {shlex.quote(str(file))}", "run it once"))
    if directory is not None:
        folder = shlex.quote(str(directory))
        unmeasured = any(row.latency is None and row.artifact for row in report.rows)
        if file is None and unmeasured and not benched:
            steps.append((f"deployfold bench {folder}", "measure every artifact"))
        if (directory / FINISH_JSON).is_file():
            about = "on the device, with a copy of the folder"
            steps.append((f"deployfold finish {folder}", about))
        steps.append((f"deployfold report {folder} --open", "the charts and all details"))
    width = max((len(command) for command, _ in steps), default=0)
    return lines + [(f"next: {command:<{width}}  {about}", True) for command, about in steps]


def _measured_file(row: Row, files: Sequence[Path]) -> Path | None:
    """The file of a row among those that were measured.

    A row has its file's name, or the whole path where several files have the same name.
    """
    named = [path for path in files if path.name == row.artifact]
    return max(named, key=lambda path: row.name.startswith(str(path)), default=None)


def show_plan(session: Session, plan: BuildPlan) -> None:
    """Print the plan of a build, or only its JSON.

    Raises:
        UsageError: the build would stop, because a file or package is missing.
    """
    from deployfold.errors import UsageError

    if session.json:
        session.write_json(plan.to_json())
    else:
        from rich.table import Table
        from rich.text import Text

        from deployfold.reporting.text import clean

        table = Table(box=None, header_style="bold", pad_edge=False)
        table.add_column("row", no_wrap=True)
        table.add_column("file", overflow="fold")
        table.add_column("made by", overflow="fold")
        for row in plan.rows:
            about = row.made_by if row.missing is None else row.missing
            cells = (row.name, row.file or "–", about)
            table.add_row(*map(Text, map(clean, cells)), style="" if row.missing is None else "dim")
        session.out.print(table)
        measured = "run and timed on this machine" if plan.measured else "not run"
        where = f"The artifacts would go to {plan.directory}"
        session.line(f"Nothing was made. {where}; they would be {measured}.")
    if plan.missing:
        raise UsageError(
            f"The build would stop: {' '.join(plan.missing)}", hint="Nothing was made."
        )
