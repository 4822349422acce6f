"""Exports a ``.pt2``: writes the ``torch.export`` program that the ONNX exporter also uses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.export import ExportedProgram

from deployfold.config.inputs import InputSpec
from deployfold.errors import ExportError, first_line
from deployfold.runtimes import PROGRAM as RUNTIME
from deployfold.util.files import atomic_path
from deployfold.util.quiet import quiet
from deployfold.util.serial import ONE_AT_A_TIME
from deployfold.util.torch_files import torch_file

from .dynamic import checking_inputs
from .exporter import ExportedFile, Exporter, ExportJob
from .outputs import compare_loaded, run_module
from .tracing import trace

_WHAT = "The .pt2 program"


@dataclass(frozen=True, kw_only=True)
class ProgramArtifact(ExportedFile):
    """A ``.pt2`` file on disk."""


def export_program(
    module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], path: Path, *, spec: InputSpec
) -> tuple[ExportedProgram, ProgramArtifact]:
    """Export ``module`` with ``torch.export`` and write the program as ``.pt2``.

    With a dynamic batch, the first axis of every input is one symbol with the requested range, and
    a second batch size is compared too.

    Args:
        module: in evaluation mode; not TorchScript.
        inputs: one tensor for each positional argument of ``forward``.
        path: the file, written atomically.
        spec: names and dynamic batch.

    Returns:
        The program in memory, for :func:`deployfold.exporting.export_onnx`, and the file.

    Raises:
        ExportError: ``torch.export`` refuses the model, or the loaded file's outputs differ.
    """
    program = trace(module, inputs, spec)
    return program, write_program(program, module, inputs, path, spec=spec)


def write_program(
    program: ExportedProgram,
    module: torch.nn.Module,
    inputs: tuple[torch.Tensor, ...],
    path: Path,
    *,
    spec: InputSpec,
) -> ProgramArtifact:
    """Write a program of :func:`trace` as ``.pt2``, load it again and compare it with ``module``.

    Raises:
        ExportError: torch cannot save the program, or the loaded file's outputs differ.
    """
    checks = checking_inputs(inputs, spec)
    references = [run_module(module, check)[0] for check in checks]
    with atomic_path(path) as temporary:
        try:
            with ONE_AT_A_TIME, quiet():
                with torch_file(temporary) as file:
                    torch.export.save(program, file)
                loaded = torch.export.load(str(temporary)).module()
        except OSError:
            raise
        except Exception as error:
            raise ExportError(
                f"torch.export cannot save the program: {first_line(error)}"
            ) from error
        difference = max(
            compare_loaded(loaded, check, reference, what=_WHAT)
            for check, reference in zip(checks, references, strict=True)
        )
        size = temporary.stat().st_size
    return ProgramArtifact(path=path, bytes=size, max_abs_diff=difference)


def _export(job: ExportJob, path: Path) -> ProgramArtifact:
    return write_program(job.program, job.module, job.inputs, path, spec=job.spec)


PROGRAM = Exporter(
    key="program",
    row="program",
    title="torch.export (.pt2)",
    label=".pt2",
    runtime=RUNTIME,
    export=_export,
)
