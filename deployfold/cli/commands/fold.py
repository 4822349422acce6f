"""Fold BatchNorm and save the module, proved to be the same function.

Examples:
  deployfold fold resnet50.pt -o resnet50.folded.pt
  deployfold fold timm:repvgg_a0 --explain
  deployfold fold router.pt --input-data samples.npz
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from deployfold.cli import options as opt
from deployfold.cli.in_session import in_session
from deployfold.cli.session import Session

if TYPE_CHECKING:
    from deployfold.reporting.report import Report


@in_session("json", "verbose")
@opt.with_build_options(*opt.MODEL, "input-data", *opt.FOLDING)
def fold(
    run: Session,
    model: opt.Source,
    output: Annotated[
        Path | None,
        opt.option(
            "The file for the folded module; without it, nothing is written.",
            "--output",
            "-o",
            metavar="FILE",
        ),
    ] = None,
    explain: Annotated[
        bool,
        opt.option(
            "List every BatchNorm with the layer and rule of its folding, or why it is left.",
            "--explain",
        ),
    ] = False,
    **written: Any,
) -> None:
    """The command ``deployfold fold``."""
    from deployfold.config.make_spec import spec_of_keywords

    spec = spec_of_keywords(model, {**written, "measure": False})
    run.show_import()
    from deployfold.building.fold_file import fold_file

    report = fold_file(spec, output, emit=run.emit)
    _show(run, report, explain or run.verbose, output)


def _show(run: Session, report: Report, explain: bool, output: Path | None) -> None:
    from deployfold.reporting.terminal import fold_table, summary_panel

    if run.json:
        run.out.file.write(report.to_json())
        return
    if explain or (report.fold is not None and report.fold.left):
        run.out.print(fold_table(report, explain=explain))
    run.out.print(summary_panel(report))
    if output is not None:
        run.line(f"Folded module: {output}")
