"""``deployfold build``."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options as opt
from .render import show_report
from .session import session

TARGET = "Target"
LIMITS = "Limits"


def build(
    model: opt.Source,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="Build in FP16.", rich_help_panel=TARGET)
    ] = False,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GPU",
            help="A GPU such as rtx4090, l4 or sm_89 (see deployfold targets); repeat it for "
            "several. auto: the GPU in this machine, else one portable engine.",
            rich_help_panel=TARGET,
        ),
    ] = None,
    no_engine: Annotated[
        bool,
        typer.Option("--no-engine", help="Stop before TensorRT.", rich_help_panel=TARGET),
    ] = False,
    io: Annotated[
        str,
        typer.Option(
            metavar="fp32|fp16",
            help="Precision of the inputs and outputs of lowered models.",
            rich_help_panel=TARGET,
        ),
    ] = "fp32",
    workspace: Annotated[
        int | None,
        typer.Option(
            metavar="MIB", min=1, help="TensorRT's workspace limit in MiB.", rich_help_panel=TARGET
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(min=1, help="Seconds an engine build may take.", rich_help_panel=TARGET),
    ] = 1800.0,
    arch: opt.Arch = None,
    input: opt.Inputs = None,
    dynamic_batch: opt.DynamicBatch = None,
    allow_global: opt.AllowGlobals = None,
    trust: opt.Trust = False,
    no_reparam: opt.NoReparam = False,
    script: Annotated[
        bool,
        typer.Option(
            "--script",
            help="Script the TorchScript instead of tracing it.",
            rich_help_panel=opt.MODEL,
        ),
    ] = False,
    threads: opt.Threads = None,
    max_seconds: opt.MaxSeconds = 30.0,
    no_measure: Annotated[
        bool,
        typer.Option("--no-measure", help="Measure nothing.", rich_help_panel=opt.MEASURE),
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the random inputs.", rich_help_panel=opt.MEASURE)
    ] = 0,
    min_speedup: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0,
            help="Fail unless some row is X times as fast as the original.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    max_diff: Annotated[
        float | None,
        typer.Option(
            metavar="D",
            min=0,
            help="Fail if a row's outputs differ from the original's by more.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    max_latency_ms: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROW=MS",
            help="Fail if the row's median is above; repeat it for several.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    output: opt.OutputDirectory = None,
    json: opt.Json = False,
    verbose: opt.Verbose = False,
    no_color: opt.NoColor = False,
    debug: opt.Debug = False,
) -> None:
    """Fold, export, compile for a GPU, measure, and compare every artifact.

    Examples:

      deployfold build resnet50.pt --fp16

      deployfold build weights.pth --arch timm:efficientnet_b0 --fp16 --target l4

      deployfold build torchvision:resnet50 --fp16 --dynamic-batch 1:8:32 --json
    """
    with session(json=json, verbose=verbose, debug=debug, no_color=no_color) as run:
        from deployfold.errors import UsageError
        from deployfold.spec import (
            BuildSpec,
            DynamicBatch,
            InputSpec,
            Precision,
            Thresholds,
            parse_row_limits,
        )

        if io not in ("fp32", "fp16"):
            raise UsageError(f"--io {io} is unknown.", hint="Use --io fp32 or --io fp16.")
        spec = BuildSpec(
            source=model,
            output=output,
            arch=arch,
            inputs=InputSpec.parse(input) if input else None,
            dynamic_batch=DynamicBatch.parse(dynamic_batch) if dynamic_batch else None,
            precisions=(Precision.FP16,) if fp16 else (),
            targets=tuple(target or ["auto"]),
            allow_globals=tuple(allow_global or ()),
            trust=trust,
            reparam=not no_reparam,
            script=script,
            float_io=io == "fp32",
            threads=threads,
            max_seconds=max_seconds,
            workspace_mib=workspace,
            timeout=timeout,
            seed=seed,
            engine=not no_engine,
            measure=not no_measure,
            thresholds=Thresholds(
                min_speedup=min_speedup,
                max_diff=max_diff,
                max_latency_ms=parse_row_limits(max_latency_ms or ()),
            ),
        )
        _check_targets(spec.targets)

        from deployfold.pipeline import build as run_pipeline
        from deployfold.pipeline import check_thresholds

        report, directory = run_pipeline(spec, emit=run.emit)
        show_report(run, report, directory)
        check_thresholds(report)


def _check_targets(names: tuple[str, ...]) -> None:
    """Refuse an unknown GPU before the model is loaded."""
    from deployfold.compile.targets import AUTO, resolve

    for name in names:
        if name.strip().lower() != AUTO:
            resolve(name)
