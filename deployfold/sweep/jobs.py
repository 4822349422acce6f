"""From a fleet to the jobs that are still to be done.

A job is one ``deployfold build``: a model in one precision for some targets. What it makes lies in
``OUT/<model>/<precision>-<key>/``, where the key is a hash of everything that decides the result:
the bytes of the checkpoint and of the data, the settings, and the versions of the packages. So a
job whose inputs changed is another job, and one whose directory is there is done.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from deployfold.config.precision import Precision
from deployfold.config.profiles import PATHS
from deployfold.errors import UsageError
from deployfold.lowering.cache import cache_key
from deployfold.measuring.environment import package_versions
from deployfold.util.files import sha256

from .fleet import Fleet, FleetModel

RECORD = "job.json"
"""What a finished job leaves beside its report; the directory is whole where it is there."""

_DATA = (*PATHS, "input-data")


@dataclass(frozen=True)
class Job:
    """One build.

    Attributes:
        key: of everything that decides the result, the targets apart.
        settings: keys and values of a build profile.
        root: the sweep's directory.
    """

    model: str
    source: str
    precision: Precision
    targets: tuple[str, ...]
    settings: Mapping[str, Any]
    key: str
    root: Path

    @property
    def directory(self) -> Path:
        """Where its result lies once it is whole."""
        digest = cache_key({"key": self.key, "targets": json.dumps(sorted(self.targets))})
        return self.root / self.model / f"{self.precision.value}-{digest[:12]}"

    @property
    def title(self) -> str:
        """``resnet18 fp16 for l4, rtx4090``."""
        return f"{self.model} {self.precision.value} for {', '.join(self.targets)}"

    @property
    def command(self) -> list[str]:
        """The words after ``deployfold`` that build it, the output directory apart."""
        words = ["build", self.source]
        if self.precision is not Precision.FP32:
            words.append(f"--{self.precision.value}")
        for target in self.targets:
            words += ["--target", target]
        for key, value in self.settings.items():
            if value is True:
                words.append(f"--{key}")
            elif value is not False and key != "description":
                for one in value if isinstance(value, list) else [value]:
                    words.append(f"--{key}={one}")  # a value may begin with a dash
        return words


@dataclass(frozen=True)
class Cell:
    """One model in one precision for one target."""

    model: FleetModel
    precision: Precision
    target: str
    key: str


def cells_of(fleet: Fleet) -> tuple[Cell, ...]:
    """Everything that a fleet asks for, in the order of its file.

    Raises:
        UsageError: a checkpoint or data that it names cannot be read.
    """
    return tuple(
        Cell(model, precision, target, key)
        for model in fleet.models
        for precision in model.precisions
        for key in [_key(model, precision)]
        for target in model.targets
    )


def finished(cells: Iterable[Cell], root: Path) -> dict[Cell, Path]:
    """The cells that are done, each with the directory that holds it."""
    cells = tuple(cells)
    built: dict[tuple[str, str], Path] = {}
    for name in dict.fromkeys(cell.model.name for cell in cells):
        for path in sorted((root / name).glob(f"*/{RECORD}")):
            record = read_record(path)
            for target in record.get("targets", ()):
                built[record.get("key", ""), target] = path.parent
    return {
        cell: built[cell.key, cell.target] for cell in cells if (cell.key, cell.target) in built
    }


def read_record(path: Path) -> dict[str, Any]:
    """A job's record; empty if it is damaged, so that the job is done again."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def pending(cells: Iterable[Cell], done: Iterable[Cell], root: Path) -> tuple[Job, ...]:
    """The jobs for all cells that are not done: one for each model and precision."""
    ready = set(done)
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell not in ready:
            groups.setdefault(cell.key, []).append(cell)
    return tuple(
        Job(
            model=group[0].model.name,
            source=group[0].model.source,
            precision=group[0].precision,
            targets=tuple(cell.target for cell in group),
            settings=group[0].model.settings,
            key=key,
            root=root,
        )
        for key, group in groups.items()
    )


def _key(model: FleetModel, precision: Precision) -> str:
    settings = {
        key: _identity(value) if key in _DATA else value for key, value in model.settings.items()
    }
    return cache_key(
        {
            "name": model.name,
            "source": _identity(model.source),
            "precision": precision.value,
            "settings": json.dumps(settings, sort_keys=True),
            "versions": json.dumps(package_versions(), sort_keys=True),
        }
    )


def _identity(value: str) -> str:
    """The hash of what a path leads to; other words stand for themselves.

    Raises:
        UsageError: it looks like a path, and there is nothing or nothing readable.
    """
    if value in ("auto", "random") or (":" in value and not Path(value).exists()):
        return value
    path = Path(value)
    try:
        return _directory_hash(path) if path.is_dir() else _file_hash(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror or error}.") from error


@lru_cache(maxsize=1024)
def _file_hash(path: Path, changed: int) -> str:
    return sha256(path)  # one checkpoint stands in many cells


def _directory_hash(path: Path) -> str:
    digest = hashlib.sha256()
    for place, directories, names in os.walk(path):
        directories.sort()
        for name in sorted(names):
            file = Path(place) / name
            if file.is_file():
                digest.update(f"{file.relative_to(path)}\0".encode("utf-8", "surrogateescape"))
                digest.update(_file_hash(file, file.stat().st_mtime_ns).encode())
    return digest.hexdigest()
