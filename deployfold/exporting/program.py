"""Exports a ``.pt2``: writes the ``torch.export`` program that the ONNX exporter also uses."""

from __future__ import annotations

from pathlib import Path

import torch

from deployfold.errors import ExportError, first_line
from deployfold.runtimes import PROGRAM as RUNTIME
from deployfold.util.files import atomic_path
from deployfold.util.quiet import quiet
from deployfold.util.shared import ONE_AT_A_TIME
from deployfold.util.torch_files import torch_file

from .dynamic import checking_inputs
from .exporter import ExportedFile, Exporter, ExportJob
from .outputs import compare_loaded, refuse_text

_WHAT = "The .pt2 program"


def export_program(job: ExportJob, path: Path) -> ExportedFile:
    """Write the ``torch.export`` program of a model as ``.pt2``, load it again and compare it.

    With a dynamic batch, the first axis of every input is one symbol with the requested range, and
    a second batch size is compared too.

    Raises:
        ExportError: ``torch.export`` refuses the model, or the loaded file's outputs differ.
    """
    program = job.program
    checks = checking_inputs(job.inputs, job.spec)
    references = [job.reference.flat(check) for check in checks]
    refuse_text(job.reference.nested(job.inputs), "a .pt2 program")
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
    return ExportedFile(path=path, bytes=size, max_abs_diff=difference)


PROGRAM = Exporter(
    key="program",
    row="program",
    title="torch.export (.pt2)",
    label=".pt2",
    runtime=RUNTIME,
    export=export_program,
)
