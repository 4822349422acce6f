"""The records of an export: the format, the job, and the exported file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch.export import ExportedProgram

from deployfold.config.build_spec import BuildSpec
from deployfold.config.inputs import InputSpec
from deployfold.errors import ExportError
from deployfold.events import Emit, ignore
from deployfold.runtimes import Runtime

from .outputs import Reference
from .tracing import trace


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """A file that an exporter wrote, ran, and compared with the eager module.

    Attributes:
        bytes: size of the file and its external data.
        max_abs_diff: largest difference of the file's outputs from the eager module's, over all
            inputs that were compared.
        notes: sentences for the user, such as one on a branch that tracing made constant.
        peak_bytes: the greatest memory of a process that the exporter started; ``None`` without
            one.
        fixed_batch: whether the file takes only the batch size of ``inputs``, although the batch is
            dynamic.
    """

    path: Path
    bytes: int
    max_abs_diff: float
    notes: tuple[str, ...] = ()
    peak_bytes: int | None = None
    fixed_batch: bool = False

    @property
    def row_notes(self) -> tuple[str, ...]:
        """The notes for the row of the table."""
        return self.notes

    @property
    def detail(self) -> str:
        """Further facts about the file, for parentheses; may be empty."""
        return ""

    @property
    def batchnorms(self) -> int | None:
        """The number of BatchNorm nodes in the file; ``None`` if they were not counted."""
        return None


@dataclass(frozen=True, eq=False)
class ExportJob:
    """One model to export, into any number of formats.

    Attributes:
        module: the model, in evaluation mode; it is not changed.
        inputs: one tensor for each positional argument of ``forward``.
        spec: names of the inputs, and their dynamic axes.
        script: let TorchScript compile the Python source instead of tracing.
        metadata: properties to write into formats with metadata.
        device: the device of a compiled format: ``cpu`` or ``cuda:0``.
        timeout: seconds until an export in a child process is stopped.
        outputs: the module's outputs on ``inputs``, as
            :func:`~.repeatable.check_repeatable` returned them; ``None`` where they are not known.
    """

    module: torch.nn.Module
    inputs: tuple[torch.Tensor, ...]
    spec: InputSpec
    script: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
    timeout: float = BuildSpec.timeout
    emit: Emit = ignore
    outputs: object = None

    @cached_property
    def reference(self) -> Reference:
        """The outputs of the module, which every format is compared with."""
        known = [] if self.outputs is None else [(self.inputs, self.outputs)]
        return Reference(self.module, known)

    @property
    def program(self) -> ExportedProgram:
        """The model's ``torch.export`` program, exported once for all formats.

        Raises:
            ExportError: ``torch.export`` refuses the model.
        """
        outcome = self._program
        if isinstance(outcome, ExportError):
            raise outcome
        return outcome

    @cached_property
    def _program(self) -> ExportedProgram | ExportError:
        try:
            # Report the model's own errors before those of torch.export.
            self.reference.nested(self.inputs)
            return trace(self.module, self.inputs, self.spec)
        except ExportError as error:
            return error


@dataclass(frozen=True)
class Exporter:
    """An export format.

    Attributes:
        key: the name in :func:`deployfold.export`.
        row, title: name and title of the format's row in the report.
        label: the name of the format in a sentence, such as ``.pt2``.
        runtime: the runtime of the files, which also has their suffix.
        export: writes a file atomically and compares it with the module. Raises ``ExportError``.
        option: the field of ``BuildSpec`` that requests the format; ``None`` if a build always
            writes it.
        required: whether a build needs the format to continue.
    """

    key: str
    row: str
    title: str
    label: str
    runtime: Runtime
    export: Callable[[ExportJob, Path], ExportedFile]
    option: str | None = None
    required: bool = False

    def path(self, directory: Path, name: str) -> Path:
        """The file of the model ``name``."""
        return directory / f"{name}{self.runtime.suffix}"
