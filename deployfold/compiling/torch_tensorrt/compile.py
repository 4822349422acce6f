"""Compiles a ``.pt2`` with torch-tensorrt: starts the worker, which does the build.

The result is another ``.pt2``, with TensorRT engines inside. Only the worker imports the package:
the import fails without an NVIDIA driver, takes ten seconds with one, and can crash the process.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployfold.compiling.records import NoEngine, optimization_profiles
from deployfold.compiling.worker_process import run_worker
from deployfold.config.build_spec import BuildSpec
from deployfold.config.inputs import InputSpec
from deployfold.config.optimization_profiles import span
from deployfold.config.precision import Precision
from deployfold.events import Emit, StageProgress, ignore
from deployfold.targets.machine import library_version
from deployfold.util.files import atomic_path

NAME = "torch-tensorrt"
INSTALL = "pip install 'deployfold[torch-tensorrt]'"
PRECISIONS = (Precision.FP32, Precision.FP16)
"""The precisions that deployfold compiles with torch-tensorrt."""


class _Absent(Exception):
    """torch-tensorrt cannot be used here; the text is the reason."""


@dataclass(frozen=True)
class TorchTensorRTArtifact:
    """A ``.pt2`` with TensorRT engines inside.

    Load it with ``import torch_tensorrt; torch.export.load(path)``, on the GPU it was built on and
    with the same TensorRT.

    Attributes:
        library_version: the version of torch-tensorrt.
        torch_parts: the number of parts that PyTorch runs, because TensorRT lacks an operator.
        max_abs_diff, sqnr_db: the difference between the outputs of the result and of the original
            program, both on the GPU with seeded random inputs.
    """

    bytes: int
    library_version: str
    engines: int
    torch_parts: int
    max_abs_diff: float
    sqnr_db: float
    peak_bytes: int | None


def compile_torch_tensorrt(
    program_path: Path,
    path: Path,
    *,
    precision: Precision,
    inputs: InputSpec,
    timeout: float = BuildSpec.timeout,
    emit: Emit = ignore,
) -> TorchTensorRTArtifact | NoEngine:
    """Compile a ``torch.export`` program for the GPU in this machine, in its own process.

    Args:
        program_path: the ``.pt2`` in fp32, with a dynamic batch if ``inputs`` has one.
        path: the file for the result; the log goes to ``<path>.log``.
        precision: fp32, or fp16 by torch-tensorrt's own casts.
        inputs: names, shapes, dtypes and the dynamic batch, in the program's order.
        timeout: seconds until the build is stopped.

    Returns:
        The artifact, or the reason why torch-tensorrt cannot build here, for its row.

    Raises:
        CompileError: the build failed, crashed or took too long.
        UsageError: ``path`` cannot be written.
    """
    refusal = _refusal(precision)
    if refusal is not None:
        return NoEngine(NAME, refusal)
    program_path, path = program_path.absolute(), path.absolute()
    log = path.with_name(f"{path.name}.log")
    try:
        with atomic_path(path) as temporary:
            job = {
                "builder": "deployfold.compiling.torch_tensorrt.builder:build_program",
                "program": str(program_path),
                "output": str(temporary),
                "precision": precision.value,
                "inputs": _as_json(inputs),
            }
            done = _run(job, log, timeout, emit)
    except _Absent as absent:
        return NoEngine(NAME, str(absent))
    return TorchTensorRTArtifact(
        bytes=path.stat().st_size,
        library_version=str(done["library_version"]),
        engines=int(done["engines"]),
        torch_parts=int(done["torch_parts"]),
        max_abs_diff=float(done["max_abs_diff"]),
        sqnr_db=float(done["sqnr_db"]),
        peak_bytes=done["peak_bytes"],
    )


def _refusal(precision: Precision) -> str | None:
    if precision not in PRECISIONS:
        name = precision.value
        why = "deployfold lets it cast only to fp16"
        if precision.record.family != "cast":
            why = "it takes only programs that NVIDIA's ModelOpt quantised; deployfold makes none"
        return f"No {name} by torch-tensorrt: {why}."
    if library_version("torch_tensorrt") is None:
        return f"No torch-tensorrt: not installed. On a machine with an NVIDIA GPU, {INSTALL}."
    return None


def _run(job: dict[str, Any], log: Path, timeout: float, emit: Emit) -> dict[str, Any]:
    def report(phase: str, fraction: float | None) -> None:
        emit(StageProgress("compile", phase, fraction))

    done = run_worker(job, log=log, timeout=timeout, report=report)
    if done["absent"] is not None:
        raise _Absent(done["absent"])
    return done


def _as_json(inputs: InputSpec) -> list[dict[str, Any]]:
    """Each input as JSON; the range spans all profiles, since torch-tensorrt takes one range."""
    ranges = map(span, zip(*optimization_profiles(inputs), strict=True))
    return [
        {**vars(shapes), "dtype": tensor.dtype}
        for shapes, tensor in zip(ranges, inputs.tensors, strict=True)
    ]
