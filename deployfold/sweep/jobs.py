"""Finds the jobs that a fleet still needs.

A cell is one model in one precision for one target. The cell's key hashes everything that affects
the result, so a cell with changed inputs is a new cell. A job is one ``deployfold build`` for
several cells of a model, which share loading, folding and exporting. The result goes to
``OUT/<model>/<precisions>-<hash of the cells>/``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deployfold.config.build_options import code_keys
from deployfold.config.conflicts import used
from deployfold.config.flag_values import is_function
from deployfold.config.precision import Precision
from deployfold.errors import ExitCode
from deployfold.lowering.cache import cache_key
from deployfold.targets.catalogue import AUTO

from .fleet import Fleet, FleetModel
from .identity import gpu_here, key_of

RECORD = "job.json"
"""The file that a finished job writes last: a directory that has it is complete."""

_SAME_FOR_ALL = (ExitCode.LOAD, ExitCode.FOLD, ExitCode.INTERRUPTED)
"""Exit codes of failures that every precision and target of a model shares."""


@dataclass(frozen=True)
class Cell:
    """One model in one precision for one target."""

    model: FleetModel
    precision: Precision
    target: str
    key: str


@dataclass(frozen=True)
class Job:
    """One build: of one model, in each of its precisions for each of its targets.

    Attributes:
        cells: one for each pair of a precision and a target.
        root: the sweep's directory.
        code: the directory of functions in the settings; ``None`` without any.
    """

    cells: tuple[Cell, ...]
    root: Path
    code: Path | None = None

    @property
    def model(self) -> FleetModel:
        """The model of all cells."""
        return self.cells[0].model

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions of the cells, without repetitions."""
        return tuple(dict.fromkeys(cell.precision for cell in self.cells))

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets of the cells, without repetitions."""
        return tuple(dict.fromkeys(cell.target for cell in self.cells))

    @property
    def measures(self) -> bool:
        """Whether the build measures latency. No other build may run at the same time."""
        return not self.model.settings.get("no-measure", False)

    @property
    def directory(self) -> Path:
        """The directory of the complete result."""
        pairs = sorted([cell.key, cell.target] for cell in self.cells)
        digest = cache_key({"cells": json.dumps(pairs)})
        return self.root / self.model.name / f"{self._precision_names('+')}-{digest[:12]}"

    @property
    def title(self) -> str:
        """``resnet18 fp16, int8 for l4, rtx4090``."""
        return f"{self.model.name} {self._precision_names(', ')} for {', '.join(self.targets)}"

    def _precision_names(self, separator: str) -> str:
        return separator.join(precision.value for precision in self.precisions)

    @property
    def command(self) -> list[str]:
        """The words of the command after ``deployfold``, without the output directory."""
        lowered = {one.value: True for one in self.precisions if one is not Precision.FP32}
        words = ["build", self.model.source, *(f"--{key}" for key in lowered)]
        for target in self.targets:
            words += ["--target", target]
        # A fleet's settings may have no effect on one build, and ``build`` refuses such settings.
        settings = used({**lowered, "target": list(self.targets), **self.model.settings})
        for key, value in settings.items():
            if key not in self.model.settings or value is False or key == "description":
                continue
            if value is True:
                words.append(f"--{key}")
            else:
                for one in value if isinstance(value, list) else [value]:
                    words.append(f"--{key}={one}")  # a value may begin with a dash
        return words

    def only(self, *, precision: Precision | None = None, targets: Iterable[str] = ()) -> Job:
        """The part of the job in one precision, or for some of the targets."""
        wanted = set(targets) or set(self.targets)
        return replace(
            self,
            cells=tuple(
                cell
                for cell in self.cells
                if cell.target in wanted and precision in (None, cell.precision)
            ),
        )

    def after(self, code: int) -> tuple[Job, ...]:
        """Jobs for parts of this job that may succeed after it failed with an exit code.

        1. A job with several precisions gives one job per precision.
        2. A job with one precision and several targets that could not be compiled gives one job per
           target.
        """
        if code in (ExitCode.OK, ExitCode.THRESHOLD, *_SAME_FOR_ALL):
            return ()
        if len(self.precisions) > 1:
            return tuple(self.only(precision=precision) for precision in self.precisions)
        if code == ExitCode.COMPILE and len(self.targets) > 1:
            return tuple(self.only(targets=[target]) for target in self.targets)
        return ()


def cells_of(fleet: Fleet, auto_gpu: str | None = None) -> tuple[Cell, ...]:
    """All cells of a fleet, in the order of its file.

    Args:
        auto_gpu: the GPU of the target ``auto``; by default that of this machine.

    Raises:
        UsageError: a checkpoint or data that the fleet names cannot be read.
    """
    if fleet.asks_for_auto and auto_gpu is None:
        auto_gpu = gpu_here()
    cells = []
    for model in fleet.models:
        for precision in model.precisions:
            key = key_of(model, precision)
            of_auto = key_of(model, precision, auto_gpu) if AUTO in model.targets else key
            cells += [
                Cell(model, precision, target, of_auto if target == AUTO else key)
                for target in model.targets
            ]
    return tuple(cells)


def finished(cells: Iterable[Cell], root: Path) -> dict[Cell, Path]:
    """The finished cells, each with its directory."""
    cells = tuple(cells)
    built: dict[tuple[str, str], Path] = {}
    for name in dict.fromkeys(cell.model.name for cell in cells):
        for path in sorted((root / name).glob(f"*/{RECORD}")):
            for pair in _built(read_record(path)):
                built[pair] = path.parent
    return {
        cell: built[cell.key, cell.target] for cell in cells if (cell.key, cell.target) in built
    }


def to_record(job: Job) -> dict[str, Any]:
    """The part of a job's record with the model and the cells, as JSON values."""
    return {
        "model": job.model.name,
        "source": job.model.source,
        "precisions": [precision.value for precision in job.precisions],
        "targets": list(job.targets),
        "cells": [
            {"precision": cell.precision.value, "target": cell.target, "key": cell.key}
            for cell in job.cells
        ],
        "command": ["deployfold", *job.command],
    }


def read_record(path: Path) -> dict[str, Any]:
    """The record of a job; empty if it is damaged, so that the job runs again."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _built(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The key and target of each cell in a record."""
    try:
        if "cells" in record:
            return [(cell["key"], cell["target"]) for cell in record["cells"]]
        # Records of earlier versions have one key, because a job had one precision.
        return [(record["key"], target) for target in record["targets"]]
    except (KeyError, TypeError):
        return []  # damaged


def pending(cells: Iterable[Cell], done: Iterable[Cell], root: Path) -> tuple[Job, ...]:
    """The jobs for all missing cells.

    1. Precisions of a model with the same missing targets share a job.
    2. FP32 has a separate job, because a build in another precision makes no FP32 engine.
    """
    ready = set(done)
    missing: dict[tuple[str, Precision], list[Cell]] = {}
    for cell in cells:
        if cell not in ready:
            missing.setdefault((cell.model.name, cell.precision), []).append(cell)
    jobs: dict[tuple[str, bool, tuple[str, ...]], list[Cell]] = {}
    for (name, precision), group in missing.items():
        targets = tuple(cell.target for cell in group)
        jobs.setdefault((name, precision is Precision.FP32, targets), []).extend(group)
    return tuple(
        Job(tuple(group), root, _code_directory(group[0].model)) for group in jobs.values()
    )


def _code_directory(model: FleetModel) -> Path | None:
    """The directory of functions in a model's settings: the working directory of the sweep."""
    named = any(is_function(model.settings.get(key)) for key in code_keys())
    return Path.cwd() if named else None
