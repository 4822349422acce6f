"""Run an artifact once, and describe its outputs.

Examples:
  deployfold run build/resnet50/resnet50.onnx
  deployfold run resnet50.engine --input image.npy --output logits.npz
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deployfold.cli import options as opt
from deployfold.cli.in_session import in_session
from deployfold.cli.session import Session
from deployfold.config.build_spec import BuildSpec

if TYPE_CHECKING:
    from deployfold.infer.outputs import RunRecord

SAMPLES = 3


@in_session("json")
def run(
    ran: Session,
    artifact: Annotated[
        Path,
        typer.Argument(
            metavar="ARTIFACT",
            help="An engine, ONNX, TorchScript archive, .pt2 or pickled module.",
            show_default=False,
        ),
    ],
    input: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="[NAME=]FILE|SHAPE",
            help="An input: x.npy, NAME=x.npy, an .npz with one array per input, or a shape such "
            "as 1x3x224x224 for random values. Random in the artifact's own shape by default.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Save the outputs as .npz, or one as .npy."
        ),
    ] = None,
    provider: opt.Provider = None,
    device: opt.Device = BuildSpec.device,
    no_cuda_graph: opt.NoCudaGraph = False,
    runtime_cache: opt.RuntimeCache = None,
    seed: opt.Seed = BuildSpec.seed,
    allow_global: opt.AllowGlobals = None,
    trust: opt.Trust = False,
) -> None:
    """The command ``deployfold run``."""
    from deployfold.infer.inputs import parse_given
    from deployfold.infer.outputs import check_suffix, save_outputs

    # Report usage errors before torch is imported.
    given = parse_given(input or ())
    if output is not None:
        check_suffix(output)

    from deployfold.infer.artifact import run_artifact
    from deployfold.runtimes import RunSettings
    from deployfold.runtimes.device_choice import resolve_device

    settings = RunSettings(
        provider=provider,
        device=resolve_device(device) if device != BuildSpec.device else None,
        cuda_graph=not no_cuda_graph,
        runtime_cache=runtime_cache,
        trust=trust,
        allow_globals=tuple(allow_global or ()),
    )
    result, arrays = run_artifact(artifact, given, settings=settings, seed=seed)
    if output is not None:
        save_outputs(output, arrays)
    if ran.json:
        ran.out.file.write(result.to_json())
    else:
        _show(ran, result, output)


def _show(ran: Session, result: RunRecord, output: Path | None) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from deployfold.reporting.text import clean, cuda_graph

    how = [f"{result.artifact} in {result.runtime}"]
    if result.placement is not None:
        how.append(result.placement)
    if result.cuda_graph is not None:
        how.append(cuda_graph(result.cuda_graph.used, result.cuda_graph.reason))
    ran.line(", ".join(how))
    for given in result.inputs:
        shape = "x".join(map(str, given.shape)) or "scalar"
        ran.line(f"input {given.name}: {shape} {given.dtype}, {given.data}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("output", "shape", "dtype", "min", "max", "mean", "not finite"):
        table.add_column(title, justify="left" if title in ("output", "dtype") else "right")
    for one in result.outputs:
        table.add_row(
            Text(clean(one.name)),
            "x".join(map(str, one.shape)) or "scalar",
            one.dtype,
            *(
                "–" if value is None else f"{value:.5g}"
                for value in (one.minimum, one.maximum, one.mean)
            ),
            str(one.nonfinite),
        )
    ran.out.print(table)
    for one in result.outputs:
        for number, top in enumerate(one.top[:SAMPLES]):
            classes = ", ".join(f"{index} ({value:.5g})" for index, value in top)
            ran.out.print(f"sample {number}, classes of the greatest outputs: {classes}")
        if len(one.top) > SAMPLES:
            ran.out.print(f"and {len(one.top) - SAMPLES} samples more")
    if output is not None:
        ran.line(f"Outputs: {output}")
