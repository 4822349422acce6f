"""Reports on a terminal, or as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .session import Session

if TYPE_CHECKING:
    from deployfold.report.model import Report


def show_report(session: Session, report: Report, directory: Path | None) -> None:
    """Print the table and the summary, or the JSON alone."""
    from deployfold.report.table import comparison_table, fold_table, summary_panel

    if session.json:
        session.out.file.write(report.to_json())
        return
    session.out.print()
    session.out.print(comparison_table(report))
    if session.verbose or (report.fold is not None and report.fold.left):
        session.out.print(fold_table(report, explain=session.verbose))
    session.out.print(summary_panel(report))
    if directory is not None:
        session.out.print(f"Artifacts and report.json: {directory}", soft_wrap=True)
