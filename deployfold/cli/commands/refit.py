"""Give an engine the weights of another checkpoint, without building it again.

The engine must have been built with --refit or --strip-plan, for the GPU in this machine.

Example:
  deployfold refit net.fp16.sm_89.engine --weights new.fp16.onnx -o new.engine
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deployfold.cli import options as opt
from deployfold.cli.in_session import in_session
from deployfold.cli.session import Session


@in_session()
def refit(
    run: Session,
    engine: Annotated[
        Path,
        typer.Argument(
            metavar="ENGINE", help="An engine with its sidecar ENGINE.json.", show_default=False
        ),
    ],
    weights: Annotated[
        Path,
        typer.Option(
            "--weights",
            metavar="ONNX",
            help="The ONNX of the other checkpoint, of the same architecture and precision.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The new engine; by default NAME.refitted.engine.",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="The GPU: cuda, or cuda:1.")
    ] = "cuda",
    trust: Annotated[
        bool,
        opt.flag("trust", help="Let a version-compatible engine run the code that it contains."),
    ] = False,
) -> None:
    """The command ``deployfold refit``."""
    from deployfold.config.flag_values import read_device
    from deployfold.errors import UsageError
    from deployfold.runtimes.cuda import Cuda
    from deployfold.runtimes.device import gpu_index, is_gpu
    from deployfold.runtimes.tensorrt_refit import check_refittable, refit_file, refitted_path

    device = read_device(device)
    if not is_gpu(device):
        raise UsageError(f"--device {device}: an engine is refitted on a GPU.", hint="Use cuda.")
    path = output or refitted_path(engine)
    check_refittable(engine, weights)  # report errors before opening the GPU
    cuda = Cuda(index=gpu_index(device))
    try:
        refit_file(engine, weights, path, cuda, trust=trust)
    finally:
        cuda.close()
    run.line(f"Refitted engine: {path}")
