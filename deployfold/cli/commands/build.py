"""Fold, export, compile for a GPU, measure, and compare every artifact.

Examples:
  deployfold build resnet50.pt --fp16
  deployfold build weights.pth --arch timm:efficientnet_b0 --fp16 --target l4
  deployfold build detector.onnx --fp16 --int8 --calib pictures/
  deployfold build torchvision:resnet50 --profile server-fp16 --json
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from deployfold.cli import options as opt
from deployfold.cli.in_session import in_session
from deployfold.cli.render import show_plan, show_report, write_page
from deployfold.cli.session import Session
from deployfold.config.option_field import Panel


@in_session("json", "quiet", "verbose")
@opt.with_build_options(uncommon=("layers", "sort", "only", "verbose", "no_color", "debug"))
def build(
    run: Session,
    context: typer.Context,
    model: opt.Source,
    *,
    profile: Annotated[
        str | None,
        opt.option(
            "A build profile, which flags override; deployfold profile list names them.",
            panel=Panel.TARGET,
            metavar="NAME|FILE",
        ),
    ] = None,
    layers: opt.Layers = False,
    sort: opt.Sort = None,
    only: opt.Only = None,
    dry_run: Annotated[
        bool,
        opt.option(
            "Print the plan and make nothing. The plan lists missing packages and files.",
            "--dry-run",
        ),
    ] = False,
    html: Annotated[
        bool,
        opt.option(
            "Also write report.html; the page has a recommendation, charts, the table and the "
            "fold map.",
            "--html",
        ),
    ] = False,
    help_all: opt.HelpAll = False,
    **written: Any,
) -> None:
    """The command ``deployfold build``."""
    from deployfold.compiling.planning import check_target
    from deployfold.config.build_profiles import merge
    from deployfold.config.conflicts import LAYERS, check_used
    from deployfold.reporting.report import REPORT_HTML
    from deployfold.reporting.select import check_column

    # Report every mistake of the command line before torch is imported.
    if sort is not None:
        check_column(sort)
    flags = given(context)
    spec = merge(profile, flags).spec(model)
    check_used([*flags, *[LAYERS] * layers], spec)
    if html:
        from deployfold.reporting.html import check_installed

        check_installed()
    for name in spec.targets:
        check_target(name)
    if dry_run or only:
        from deployfold.building.dry_run import plan_build
        from deployfold.reporting.select import selected_names
        from deployfold.targets.machine import detect

        plan = plan_build(spec, detect())
        selected_names([row.name for row in plan.rows], only or ())  # refuses a name of no row
        if dry_run:
            show_plan(run, plan)
            return

    run.show_import()
    from deployfold.building.pipeline import build as run_pipeline
    from deployfold.building.pipeline import check_outcome

    report, directory = run_pipeline(spec, emit=run.emit)
    if html:
        write_page([(report, directory)], directory / REPORT_HTML)
    show_report(run, report, directory, sort=sort, only=tuple(only or ()), layers=layers)
    check_outcome(report)


def given(context: typer.Context) -> dict[str, Any]:
    """The options of ``build`` on the command line, by key."""
    from deployfold.config.build_options import build_options

    found = {}
    for one in build_options():
        source = context.get_parameter_source(one.keyword)
        if source is not None and source.name == "COMMANDLINE":
            found[one.key] = context.params[one.keyword]
    return found
