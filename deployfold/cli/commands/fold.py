"""Fold BatchNorm and save the module, proved to be the same function.

Examples:
  deployfold fold resnet50.pt -o resnet50.folded.pt
  deployfold fold timm:repvgg_a0 --explain
  deployfold fold router.pt --input-data samples.npz
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deployfold.cli import options as opt
from deployfold.cli.session import Session, session
from deployfold.config.option_field import Panel

if TYPE_CHECKING:
    from deployfold.reporting.report import Report


def fold(
    model: opt.Source,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where the folded module goes; nothing is written without it.",
            rich_help_panel=Panel.OUTPUT,
        ),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="List every BatchNorm: folded into what by which rule, or left and why.",
            rich_help_panel=Panel.OUTPUT,
        ),
    ] = False,
    arch: opt.Arch = None,
    arch_arg: opt.ArchArgs = None,
    weights: opt.Weights = None,
    input: opt.Inputs = None,
    input_data: opt.InputData = None,
    allow_global: opt.AllowGlobals = None,
    trust: opt.Trust = False,
    no_reparam: opt.NoReparam = False,
    json: opt.Json = False,
    verbose: opt.Verbose = False,
    no_color: opt.NoColor = False,
    debug: opt.Debug = False,
) -> None:
    """The command ``deployfold fold``."""
    with session(json=json, verbose=verbose, debug=debug, no_color=no_color) as run:
        from deployfold.building.pipeline import fold_file
        from deployfold.config.make_spec import make_spec

        written = {
            "arch": arch, "arch-arg": arch_arg, "weights": weights, "input": input,
            "input-data": input_data, "allow-global": allow_global, "trust": trust,
            "no-reparam": no_reparam,
        }  # fmt: skip
        spec = make_spec(model, written, measure=False)
        report = fold_file(spec, output, emit=run.emit)
        _show(run, report, explain or verbose, output)


def _show(run: Session, report: Report, explain: bool, output: Path | None) -> None:
    from deployfold.reporting.terminal import fold_table, summary_panel

    if run.json:
        run.out.file.write(report.to_json())
        return
    if explain or (report.fold is not None and report.fold.left):
        run.out.print(fold_table(report, explain=explain))
    run.out.print(summary_panel(report))
    if output is not None:
        run.out.print(f"Folded module: {output}", soft_wrap=True)
