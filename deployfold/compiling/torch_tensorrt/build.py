"""torch-tensorrt: an ExportedProgram in, an ExportedProgram with TensorRT engines inside out.

The package cannot be imported without an NVIDIA driver, takes ten seconds to be imported with one,
and can take the process down with it: it is only ever imported in the worker.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployfold.compiling.process import run_worker
from deployfold.compiling.request import NoEngine, optimization_profiles
from deployfold.config.precision import Precision
from deployfold.config.shapes import span
from deployfold.config.spec import InputSpec
from deployfold.errors import CompileError
from deployfold.events import Emit, StageProgress, ignore
from deployfold.targets.machine import library_version
from deployfold.util.files import atomic_path, sha256

NAME = "torch-tensorrt"
PRECISIONS = (Precision.FP32, Precision.FP16)


class _Absent(Exception):
    """torch-tensorrt cannot be used here; the text says why."""


@dataclass(frozen=True)
class TorchTensorRTArtifact:
    """A ``.pt2`` with engines inside.

    It loads with ``import torch_tensorrt; torch.export.load(path)``, on the GPU it was built on and
    with the same TensorRT.

    Attributes:
        library_version: of torch-tensorrt.
        engines: TensorRT engines in it.
        torch_parts: parts that PyTorch runs, since TensorRT has no operator for them.
        max_abs_diff, sqnr_db: its outputs against the program's own, both on the GPU, on seeded
            random inputs.
        seconds: wall-clock time of the whole build, the worker's start included.
    """

    path: Path
    bytes: int
    sha256: str
    precision: Precision
    library_version: str
    tensorrt_version: str
    engines: int
    torch_parts: int
    max_abs_diff: float
    sqnr_db: float
    seconds: float
    log: Path
    peak_bytes: int | None = None
    notes: tuple[str, ...] = ()


def compile_torch_tensorrt(
    program_path: Path,
    path: Path,
    *,
    precision: Precision,
    inputs: InputSpec,
    timeout: float = 1800.0,
    emit: Emit = ignore,
) -> TorchTensorRTArtifact | NoEngine:
    """Compile a ``torch.export`` program for the GPU in this machine, in a subprocess.

    Args:
        program_path: the ``.pt2`` in fp32, with a dynamic batch where ``inputs`` has one.
        path: where the result goes, a ``.pt2`` again; its log goes to ``<path>.log``.
        precision: fp32, or fp16 by torch-tensorrt's own casts.
        inputs: names, shapes, dtypes and the dynamic batch, in the program's order.
        timeout: seconds until the build is stopped.
        emit: hears a ``StageProgress`` of the stage ``compile`` for each phase.

    Returns:
        The artifact; or why torch-tensorrt cannot be had here, for its row in the report.

    Raises:
        CompileError: it was there, and the build failed, crashed or took too long.
        UsageError: ``path`` cannot be written.
    """
    if precision not in PRECISIONS and precision.record.family == "cast":
        return NoEngine(
            NAME,
            f"No {precision.value} by torch-tensorrt: deployfold has it cast to fp16 alone.",
        )
    if precision not in PRECISIONS:
        return NoEngine(
            NAME,
            f"No {precision.value} by torch-tensorrt: it wants a program that was quantised by "
            "NVIDIA's ModelOpt, which deployfold does not make.",
        )
    if library_version("torch_tensorrt") is None:
        return NoEngine(
            NAME,
            "No torch-tensorrt: it is not installed; on a machine with an NVIDIA GPU, "
            "pip install 'deployfold[torch-tensorrt]'.",
        )
    started = time.monotonic()
    program_path, path = program_path.absolute(), path.absolute()
    log = path.with_name(f"{path.name}.log")
    try:
        with atomic_path(path) as temporary:
            job = {
                "builder": "deployfold.compiling.torch_tensorrt.worker:build_program",
                "program": str(program_path),
                "output": str(temporary),
                "precision": precision.value,
                "inputs": _as_json(inputs),
            }
            done = _run(job, log, timeout, emit)
    except _Absent as absent:
        return NoEngine(NAME, str(absent))
    return TorchTensorRTArtifact(
        path=path,
        bytes=path.stat().st_size,
        sha256=sha256(path),
        precision=precision,
        library_version=str(done["library_version"]),
        tensorrt_version=str(done["tensorrt_version"]),
        engines=int(done["engines"]),
        torch_parts=int(done["torch_parts"]),
        max_abs_diff=float(done["max_abs_diff"]),
        sqnr_db=float(done["sqnr_db"]),
        seconds=time.monotonic() - started,
        log=log,
        peak_bytes=done["peak_bytes"],
    )


def _run(job: dict[str, Any], log: Path, timeout: float, emit: Emit) -> dict[str, Any]:
    def hear(message: dict[str, Any]) -> None:
        emit(StageProgress("compile", str(message["phase"]), message["fraction"]))

    try:
        done = run_worker(job, log=log, timeout=timeout, hear=hear)
    except CompileError as error:
        hint = f"{error.hint + ' ' if error.hint else ''}The log: {log}."
        raise CompileError(error.message, hint=hint) from error
    if done["absent"] is not None:
        raise _Absent(done["absent"])
    return done


def _as_json(inputs: InputSpec) -> list[dict[str, Any]]:
    """Each input with its dtype and shapes; torch-tensorrt has one range, which spans them all."""
    ranges = map(span, zip(*optimization_profiles(inputs), strict=True))
    return [
        {**vars(shapes), "dtype": tensor.dtype}
        for shapes, tensor in zip(ranges, inputs.tensors, strict=True)
    ]
