"""``deployfold compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as opt
from .session import session

LIMITS = "Limits"


def compare(
    old: Annotated[
        Path,
        typer.Argument(
            metavar="OLD", help="A report.json, or the directory of a build.", show_default=False
        ),
    ],
    new: Annotated[
        Path,
        typer.Argument(metavar="NEW", help="The one to hold against it.", show_default=False),
    ],
    fail: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[ROW:]METRIC=LIMIT",
            help="How much worse a metric may get: latency=5%, sqnr=3dB, bytes=1MB, accuracy=0.5pt "
            "(percentage points), bytes=never. Metrics: latency, p95, speedup, cold, memory, "
            "bytes, parameters, bn, int8, diff, sqnr, top1, accuracy, rows. By default: latency "
            "10% and beyond noise, bytes 1%, sqnr 3dB, int8 1pt, and any more parameters or bn, "
            "less top1 or accuracy, or row that is measured no more. Repeat it for several.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    min_speedup: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0,
            help="Fail unless some row of NEW is X times as fast as its original.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    max_diff: Annotated[
        float | None,
        typer.Option(
            metavar="D",
            min=0,
            help="Fail if a row of NEW differs from its original by more.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    max_latency_ms: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROW=MS",
            help="Fail if the row's median in NEW is above; repeat it for several.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write Markdown, for a pull request.",
            rich_help_panel=opt.OUTPUT,
        ),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also write JUnit XML, for CI.", rich_help_panel=opt.OUTPUT
        ),
    ] = None,
    json: opt.Json = False,
    verbose: opt.Verbose = False,
    no_color: opt.NoColor = False,
    debug: opt.Debug = False,
) -> None:
    """Say what moved beyond noise from one report to the next; exit code 7 on a regression.

    Examples:

      deployfold compare main/build/resnet50 build/resnet50

      deployfold compare old.json new.json --fail latency=5% --fail onnxruntime:bytes=never
    """
    with session(json=json, verbose=verbose, debug=debug, no_color=no_color) as run:
        from deployfold.errors import ThresholdError
        from deployfold.files import write_text
        from deployfold.report.change_render import (
            changes_junit,
            changes_markdown,
            changes_renderable,
            regression_sentences,
        )
        from deployfold.report.changes import compare_reports
        from deployfold.report.goals import parse_goals
        from deployfold.report.model import load_report
        from deployfold.report.thresholds import check
        from deployfold.spec import Thresholds, parse_row_limits

        goals = parse_goals(fail or ())
        limits = Thresholds(
            min_speedup=min_speedup,
            max_diff=max_diff,
            max_latency_ms=parse_row_limits(max_latency_ms or ()),
        )
        before, after = load_report(old), load_report(new)
        changes = compare_reports(before, after, goals, limits=check(after.rows, limits))
        if markdown is not None:
            write_text(markdown, changes_markdown(changes))
        if junit is not None:
            write_text(junit, changes_junit(changes))
        if run.json:
            run.out.file.write(changes.to_json())
        else:
            run.out.print(changes_renderable(changes, everything=verbose))
        if not changes.passed:
            sentences = regression_sentences(changes)
            raise ThresholdError("; ".join(sentences) + ".")
