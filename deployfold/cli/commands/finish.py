"""Build a build's engines on this device, run and verify them, and complete its report.

Needs TensorRT or TensorRT-RTX here, and neither torch nor onnx.

Examples:
  deployfold finish resnet50
  deployfold finish build/resnet50 --target sm_89
  deployfold finish build/resnet50 --on user@jetson
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deployfold.cli import options as opt
from deployfold.cli.in_session import in_session
from deployfold.cli.render import show_report
from deployfold.cli.session import Session
from deployfold.config.build_spec import BuildSpec


@in_session("json", "verbose")
def finish(
    run: Session,
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="A complete copy of a directory that deployfold build wrote.",
            show_default=False,
        ),
    ],
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GPU",
            help="Build for this GPU instead of the one in this machine, such as sm_89; "
            "TensorRT-RTX needs no GPU to build. Repeat it for several.",
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PRECISION",
            help="Build only this precision; repeat it for several.",
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            metavar="HOST",
            help="Finish on this device over SSH: copy the kit there, run this command, and fetch "
            "the engines and the report. deployfold must be installed there.",
        ),
    ] = None,
    remote_command: Annotated[
        str,
        typer.Option(metavar="COMMAND", help="With --on: the command of deployfold there."),
    ] = "deployfold",
    timeout: Annotated[float, opt.flag("timeout")] = BuildSpec.timeout,
    max_seconds: opt.MaxSeconds = 10.0,
    no_cuda_graph: opt.NoCudaGraph = False,
) -> None:
    """The command ``deployfold finish``."""
    from deployfold.config.precision import parse_precisions
    from deployfold.finish.device import finish as run_finish

    precisions = parse_precisions(precision or ())
    if on is not None:
        from deployfold.finish.remote import finish_on

        words = [f"--timeout={timeout}", f"--max-seconds={max_seconds}"]
        words += [f"--target={one}" for one in target or ()]
        words += [f"--precision={one.value}" for one in precisions]
        words += ["--no-cuda-graph"] * no_cuda_graph
        report = finish_on(on, directory, words, command=remote_command, emit=run.emit)
        show_report(run, report, directory)
        return
    report = run_finish(
        directory,
        targets=tuple(target or ()),
        precisions=precisions,
        max_seconds=max_seconds,
        timeout=timeout,
        cuda_graph=not no_cuda_graph,
        emit=run.emit,
    )
    show_report(run, report, directory)
