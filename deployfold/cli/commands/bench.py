"""Measure artifacts side by side on this machine, engines on its GPU.

Examples:
  deployfold bench build/resnet50
  deployfold bench resnet50.pt build/resnet50/resnet50.onnx --threads 1
  deployfold bench build/resnet50 --batch 1,8,32 --only onnxruntime
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
from deployfold.config.option_field import Panel


@in_session("json", "verbose")
def bench(
    run: Session,
    artifacts: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR|FILE",
            help="A directory that deployfold build wrote, or files of any runtime. The first one "
            "is the baseline.",
            show_default=False,
        ),
    ],
    input: opt.Inputs = None,
    allow_global: opt.AllowGlobals = None,
    trust: opt.Trust = False,
    device: opt.Device = BuildSpec.device,
    threads: opt.Threads = None,
    max_seconds: opt.MaxSeconds = BuildSpec.max_seconds,
    seed: opt.Seed = BuildSpec.seed,
    batch: opt.Batch = None,
    cold_start: opt.ColdStart = False,
    layers: Annotated[
        bool,
        opt.option(
            "Also print the time of each PyTorch module, in ONNX Runtime and of engines.",
            "--layers",
            panel=Panel.MEASUREMENT,
        ),
    ] = False,
    export_layers: Annotated[
        Path | None,
        opt.option(
            "With --layers: write ROW.layers.json and ROW.profile.json, as trtexec does.",
            panel=Panel.MEASUREMENT,
            metavar="DIR",
        ),
    ] = None,
    provider: opt.Providers = None,
    no_cuda_graph: opt.NoCudaGraph = False,
    no_tf32: opt.NoTf32 = False,
    torch_fp16: Annotated[
        bool, opt.flag("torch-fp16", help="Also run pickled modules in fp16; always on a GPU.")
    ] = False,
    torch_compile: Annotated[
        bool, opt.flag("torch-compile", help="Also run pickled modules with torch.compile.")
    ] = False,
    runtime_cache: opt.RuntimeCache = None,
    inputs: Annotated[
        Path | None,
        opt.option(
            "Real inputs: a folder of images, .npy for a model with one input, .npz with one array "
            "per input. Seeded random by default.",
            "--input-data",
            "--inputs",
            panel=Panel.MEASUREMENT,
            metavar="FILE",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        opt.option(
            "The labels of --input-data, for the accuracy and --metric: as build takes them.",
            panel=Panel.MEASUREMENT,
            metavar="FILE",
        ),
    ] = None,
    metric: Annotated[list[str] | None, opt.flag("metric")] = None,
    sort: opt.Sort = None,
    only: Annotated[
        list[str] | None,
        opt.option(
            "Measure only this row and the first one; repeat it for several.",
            panel=Panel.MEASUREMENT,
            metavar="ROW",
        ),
    ] = None,
) -> None:
    """The command ``deployfold bench``."""
    from deployfold.config.flag_values import read_batches
    from deployfold.errors import UsageError
    from deployfold.reporting.select import check_column

    # Report usage errors before torch is imported.
    if sort is not None:
        check_column(sort)
    batches = read_batches(batch)
    if labels is not None and inputs is None:
        raise UsageError("--labels needs the inputs they belong to.", hint="Add --inputs FILE.")

    if export_layers is not None and not layers:
        raise UsageError("--export-layers writes what --layers measures.", hint="Add --layers.")

    from deployfold.bench.bench import bench as run_bench
    from deployfold.config.inputs import InputSpec

    report = run_bench(
        artifacts,
        inputs=InputSpec.parse(input) if input else None,
        allow_globals=tuple(allow_global or ()),
        trust=trust,
        threads=threads,
        max_seconds=max_seconds,
        seed=seed,
        batches=batches,
        only=tuple(only or ()),
        data=inputs,
        labels=labels,
        metrics=tuple(metric or ()),
        cold_start=cold_start,
        layers=layers,
        providers=tuple(provider or ()),
        device=device,
        tf32=not no_tf32,
        torch_fp16=torch_fp16,
        torch_compile=torch_compile,
        cuda_graph=not no_cuda_graph,
        runtime_cache=runtime_cache,
        emit=run.emit,
    )
    directory = artifacts[0] if artifacts[0].is_dir() else None
    show_report(run, report, directory, sort=sort, benched=artifacts)
    if export_layers is not None:
        from deployfold.reporting.layer_times import write_layer_times

        for path in write_layer_times(report, export_layers):
            run.wrote(path)
