"""``deployfold bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as opt
from .render import show_report
from .session import session


def bench(
    artifacts: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR|FILE…",
            help="A directory that deployfold build wrote, or artifacts: .engine, .onnx, .ts.pt, "
            ".pt2, .pt. The first one is the baseline.",
            show_default=False,
        ),
    ],
    input: opt.Inputs = None,
    allow_global: opt.AllowGlobals = None,
    trust: opt.Trust = False,
    threads: opt.Threads = None,
    max_seconds: opt.MaxSeconds = 30.0,
    json: opt.Json = False,
    verbose: opt.Verbose = False,
    no_color: opt.NoColor = False,
    debug: opt.Debug = False,
) -> None:
    """Measure artifacts side by side on this machine, engines on its GPU.

    Examples:

      deployfold bench build/resnet50

      deployfold bench resnet50.pt build/resnet50/resnet50.onnx --threads 1
    """
    with session(json=json, verbose=verbose, debug=debug, no_color=no_color) as run:
        from deployfold.bench import bench as run_bench
        from deployfold.spec import InputSpec

        report = run_bench(
            artifacts,
            inputs=InputSpec.parse(input) if input else None,
            allow_globals=tuple(allow_global or ()),
            trust=trust,
            threads=threads,
            max_seconds=max_seconds,
            emit=run.emit,
        )
        show_report(run, report, None)
