"""``deployfold build``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from . import engine_flags as engine
from . import int8_flags
from . import options as opt
from . import precision_flags as precision
from .render import show_report, write_page
from .session import session

LIMITS = "Limits"


def build(
    context: typer.Context,
    model: opt.Source,
    fp16: precision.Fp16 = False,
    bf16: precision.Bf16 = False,
    int8: precision.Int8 = False,
    fp8: precision.Fp8 = False,
    int4: precision.Int4 = False,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GPU",
            help="A GPU such as rtx4090, l4 or sm_89 (see deployfold targets); repeat it for "
            "several. l4,rtx5090: one engine for both. portable: one for GeForce RTX 30 to 50 and "
            "their siblings. auto: "
            "the GPU in this machine, else portable.",
            rich_help_panel=precision.PANEL,
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="A build profile (see deployfold profile list); flags override it.",
            rich_help_panel=precision.PANEL,
        ),
    ] = None,
    no_engine: Annotated[
        bool,
        typer.Option("--no-engine", help="Stop before TensorRT.", rich_help_panel=precision.PANEL),
    ] = False,
    io: Annotated[
        str,
        typer.Option(
            metavar="fp32|fp16",
            help="Precision of the inputs and outputs of lowered models.",
            rich_help_panel=precision.PANEL,
        ),
    ] = "fp32",
    workspace: engine.Workspace = None,
    timeout: engine.Timeout = 1800.0,
    torch_tensorrt: engine.TorchTensorRT = False,
    optimization_level: engine.OptimizationLevel = None,
    timing_cache: engine.TimingCache = None,
    hardware_compatibility: engine.HardwareCompatibility = "none",
    version_compatible: engine.VersionCompatible = False,
    exclude_lean_runtime: engine.ExcludeLeanRuntime = False,
    weight_streaming: engine.WeightStreaming = False,
    strip_plan: engine.StripPlan = False,
    refit: engine.Refit = False,
    dla_core: engine.DlaCore = None,
    no_gpu_fallback: engine.NoGpuFallback = False,
    calib: int8_flags.Calib = None,
    calib_samples: int8_flags.CalibSamples = 256,
    held_back: int8_flags.HeldBack = 0.25,
    min_sqnr: int8_flags.MinSqnr = 20.0,
    min_agreement: int8_flags.MinAgreement = None,
    min_int8_share: int8_flags.MinInt8Share = 0.5,
    no_guard: int8_flags.NoGuard = False,
    int8_rest: int8_flags.Int8Rest = "fp16",
    residual_qdq: int8_flags.ResidualQdq = False,
    layers: int8_flags.Layers = False,
    arch: opt.Arch = None,
    input: opt.Inputs = None,
    input_data: opt.InputData = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|DIR",
            help="Classes, to measure accuracy by: of --calib, or without it of --input-data.",
            rich_help_panel=opt.MODEL,
        ),
    ] = None,
    preprocess: opt.Preprocess = "auto",
    resize: opt.Resize = None,
    crop: opt.Crop = None,
    mean: opt.Mean = None,
    std: opt.Std = None,
    layout: opt.Layout = None,
    channels: opt.ColourChannels = None,
    dynamic_batch: opt.DynamicBatch = None,
    shapes: opt.Shapes = None,
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
    batch: opt.Batch = None,
    cold_start: opt.ColdStart = False,
    no_measure: Annotated[
        bool,
        typer.Option("--no-measure", help="Measure nothing.", rich_help_panel=opt.MEASURE),
    ] = False,
    no_cuda_graph: opt.NoCudaGraph = False,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of all random choices.", rich_help_panel=opt.MEASURE)
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
    sort: opt.Sort = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROW",
            help="Show only this row beside the original; repeat it for several.",
            rich_help_panel=opt.OUTPUT,
        ),
    ] = None,
    output: opt.OutputDirectory = None,
    html: Annotated[
        bool,
        typer.Option(
            "--html",
            help="Also write report.html: table, charts, fold map, graph.",
            rich_help_panel=opt.OUTPUT,
        ),
    ] = False,
    json: opt.Json = False,
    verbose: opt.Verbose = False,
    no_color: opt.NoColor = False,
    debug: opt.Debug = False,
) -> None:
    """Fold, export, compile for a GPU, measure, and compare every artifact.

    Examples:

      deployfold build resnet50.pt --fp16

      deployfold build weights.pth --arch timm:efficientnet_b0 --fp16 --target l4

      deployfold build resnet50.pt --fp16 --int8 --calib pictures/

      deployfold build torchvision:resnet50 --profile server-fp16 --json
    """
    with session(json=json, verbose=verbose, debug=debug, no_color=no_color) as run:
        from deployfold.compiling.plan import check_target
        from deployfold.config.profiles import merge
        from deployfold.reporting.html import check_installed
        from deployfold.reporting.select import check_column

        if sort is not None:
            check_column(sort)
        settings = merge(profile, given(context)).settings
        spec = settings.spec(
            model, output=output, allow_globals=tuple(allow_global or ()), trust=trust
        )
        if html:
            check_installed()
        for name in spec.targets:  # an unknown GPU is told before the model is loaded
            check_target(name)

        from deployfold.building.pipeline import build as run_pipeline
        from deployfold.building.pipeline import check_outcome

        report, directory = run_pipeline(spec, emit=run.emit)
        if html:
            write_page(report, directory, directory / "report.html")
        show_report(run, report, directory, sort=sort, only=tuple(only or ()), layers=layers)
        check_outcome(report)


def given(context: typer.Context) -> dict[str, Any]:
    """The settings that stand on the command line, by key, without those that have defaults."""
    from deployfold.config.settings import keys

    found = {}
    for key in keys():
        name = key.replace("-", "_")
        source = context.get_parameter_source(name) if name in context.params else None
        if source is not None and source.name == "COMMANDLINE":
            found[key] = context.params[name]
    return found
