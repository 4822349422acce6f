"""The kit that a build writes for devices it cannot build for: ``finish.json`` and its files.

The kit is the build directory itself, with the lowered ONNX files and the report. ``finish.json``
lists the missing engines. ``reference.npz`` has inputs, and the original model's outputs for them.
Reading a kit needs NumPy and pydantic alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from deployfold import __version__
from deployfold.config.engine import EngineOptions
from deployfold.config.optimization_profiles import OptimizationProfile
from deployfold.config.precision import Precision
from deployfold.errors import UsageError, one_line
from deployfold.util.arrays import Array
from deployfold.util.files import sha256, write_text
from deployfold.util.onnx_files import onnx_files
from deployfold.util.versioned_json import parse_versioned

from .reference import REFERENCE_NPZ, read_reference

SCHEMA = 1
FINISH_JSON = "finish.json"


@dataclass(frozen=True)
class Wanted:
    """One engine that the device should build.

    Attributes:
        row: the name of its row in the report: ``tensorrt-fp16-jetson-orin-nano``.
        title: the row's title.
        profiles, workspace_mib, options: the fields of an ``EngineRequest``.
    """

    row: str
    title: str
    target: str
    precision: Precision
    profiles: tuple[OptimizationProfile, ...] = ()
    workspace_mib: int | None = None
    options: EngineOptions = field(default_factory=EngineOptions)


_WANTED = TypeAdapter(tuple[Wanted, ...])
"""Reads and writes the list of engines as JSON; keys of a newer deployfold are ignored."""


@dataclass(frozen=True, eq=False)
class Kit:
    """The content of a kit.

    Attributes:
        onnx: the lowered ONNX of each precision.
        wanted: the engines to build.
        inputs, outputs: the arrays of the reference inference, by name, in the model's order.
        report: the path of the report to complete.
    """

    onnx: dict[Precision, Path]
    wanted: tuple[Wanted, ...]
    inputs: dict[str, Array]
    outputs: dict[str, Array]
    report: Path


def copy_note(targets: Sequence[str]) -> str:
    """The report's note on how to get the engines for ``targets``."""
    names = ", ".join(dict.fromkeys(targets))
    return f"To build for {names}: copy this directory there and run deployfold finish on it."


def write_finish_kit(
    directory: Path,
    *,
    model_name: str,
    onnx_by_precision: Mapping[Precision, Path],
    requests: Sequence[Wanted],
    inputs: Sequence[str],
    report_path: Path,
) -> Path:
    """Write ``finish.json`` into a build directory that already has ``reference.npz``.

    This function checks the ONNX files for validity and finite weights, because a device may lack
    the package ``onnx``. The device then only compares their SHA-256.

    Args:
        model_name: the prefix of the engines' file names.
        onnx_by_precision: the lowered ONNX files, in ``directory``.
        requests: the engines to build, one for each row of the report.
        inputs: the names of the inputs, in the order of the reference inference.

    Returns:
        The path of ``finish.json``.

    Raises:
        CompileError: an ONNX is broken.
        UsageError: a file cannot be written.
    """
    from deployfold.compiling.tensorrt.onnx_checks import check

    for path in onnx_by_precision.values():
        check(path)
    reference, plan = directory / REFERENCE_NPZ, directory / FINISH_JSON
    _, outputs = read_reference(reference)
    data = {
        "schema_version": SCHEMA,
        "deployfold_version": __version__,
        "model_name": model_name,
        "report": report_path.name,
        "reference": {"file": reference.name, "sha256": sha256(reference)},
        "onnx": {
            precision.value: [_file(path, directory) for path in onnx_files(onnx)]
            for precision, onnx in onnx_by_precision.items()
        },
        "inputs": list(inputs),
        "outputs": [str(index) for index in range(len(outputs))],
        "engines": _WANTED.dump_python(tuple(requests), mode="json"),
    }
    write_text(plan, json.dumps(data, indent=2) + "\n")
    return plan


def wanted_engines(directory: Path) -> tuple[Wanted, ...]:
    """The engines that a build left to its devices, without a check of the kit's files.

    Raises:
        OSError: the directory has no kit, or the kit cannot be read.
        UsageError: the kit is damaged, or another version of deployfold wrote it.
    """
    path = directory / FINISH_JSON
    try:
        return _WANTED.validate_python(_plan(path).get("engines"))
    except ValueError as error:
        raise _damaged(path, error) from error


def _plan(path: Path) -> dict[str, Any]:
    """The content of a kit's JSON."""
    return parse_versioned(path.read_bytes(), str(path), "kit", (SCHEMA,))


def read_kit(directory: Path) -> Kit:
    """Read the kit of a build directory, and check the SHA-256 of its files.

    Raises:
        UsageError: the kit is missing or damaged, a newer deployfold wrote it, or one of its files
            is missing or changed.
    """
    path = directory / FINISH_JSON
    try:
        data = _plan(path)
        files = {
            Precision(name): [_checked(directory, part) for part in parts]
            for name, parts in data["onnx"].items()
        }
        onnx = {precision: paths[0] for precision, paths in files.items()}
        reference = _checked(directory, data["reference"])
        wanted = _WANTED.validate_python(data.get("engines"))
        given, expected = read_reference(reference)
        inputs = dict(zip(data["inputs"], given, strict=True))
        outputs = dict(zip(data["outputs"], expected, strict=True))
        report = directory / Path(data["report"]).name
        return Kit(onnx, wanted, inputs, outputs, report)
    except FileNotFoundError as error:
        raise UsageError(
            f"{directory} has no {Path(error.filename).name} to finish a build from.",
            hint="Copy the whole directory that deployfold build wrote to the device.",
        ) from error
    except OSError as error:
        raise UsageError(
            f"Cannot read {error.filename or path}: {error.strerror}.",
            hint="Make the file readable, or copy the build's directory again.",
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UsageError:
    return UsageError(
        f"{path} is damaged: {type(error).__name__}: {one_line(error)}.",
        hint="Copy the build's directory again.",
    )


def _file(path: Path, directory: Path) -> dict[str, str]:
    if path.resolve().parent != directory.resolve():
        raise UsageError(
            f"{path} is not in {directory}, so a copy of that directory would lack it.",
            hint="Build into one directory.",
        )
    return {"file": path.name, "sha256": sha256(path)}


def _checked(directory: Path, entry: Mapping[str, str]) -> Path:
    # Use only the name, because a path could lead out of the build's directory.
    path = directory / Path(entry["file"]).name
    if sha256(path) != entry["sha256"]:
        raise UsageError(
            f"{path} has changed since the build.", hint="Copy the build's directory again."
        )
    return path
