"""An export format: its record, what it exports, and the file that comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch.export import ExportedProgram

from deployfold.config.inputs import InputSpec
from deployfold.errors import ExportError
from deployfold.events import Emit, ignore
from deployfold.runtimes import Runtime

from .tracing import trace


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """A file that an exporter wrote, ran, and compared with the eager module.

    Attributes:
        bytes: size of the file, and of its external data where it has some.
        max_abs_diff: largest difference of the file's outputs from the eager module's, over all
            inputs that were tried.
        notes: sentences for the user, such as a branch that tracing baked in.
        peak_bytes: the greatest memory of a process that the exporter started; ``None`` without.
    """

    path: Path
    bytes: int
    max_abs_diff: float
    notes: tuple[str, ...] = ()
    peak_bytes: int | None = None

    @property
    def row_notes(self) -> tuple[str, ...]:
        """The notes for the row of the table."""
        return self.notes

    @property
    def detail(self) -> str:
        """Further facts that sum the file up, to stand in parentheses; may be empty."""
        return ""

    @property
    def batchnorms(self) -> int | None:
        """BatchNorm nodes that were counted in the file; ``None`` if they were not."""
        return None


@dataclass(frozen=True, eq=False)
class ExportJob:
    """One model to export, into any number of formats.

    Attributes:
        module: in eval mode; it is not changed.
        inputs: one tensor a positional argument of ``forward``.
        spec: names of the inputs, and their dynamic axes.
        script: let TorchScript compile the Python source instead of tracing.
        metadata: properties to write into formats that have a place for them.
        device: that a compiled format is for: ``cpu`` or ``cuda:0``.
        timeout: seconds until an export in a process of its own is stopped.
    """

    module: torch.nn.Module
    inputs: tuple[torch.Tensor, ...]
    spec: InputSpec
    script: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
    timeout: float = 1800.0
    emit: Emit = ignore

    @property
    def program(self) -> ExportedProgram:
        """The model as ``torch.export`` exports it; that runs once for all formats.

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
            return trace(self.module, self.inputs, self.spec)
        except ExportError as error:
            return error


@dataclass(frozen=True)
class Exporter:
    """An export format.

    Attributes:
        key: its name in :func:`deployfold.export`.
        row, title: name and title of its row in the report.
        label: names the format in a sentence: ``.pt2``.
        runtime: opens the files; its suffix ends their names.
        export: writes a file atomically and compares it with the module. Raises ``ExportError``.
        option: the field of ``BuildSpec`` that asks for the format; ``None`` if it is always made.
        required: a build cannot go on without it.
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
