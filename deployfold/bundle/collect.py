"""Collects the files of a build for its bundle, and the facts about each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployfold.config.precision import Precision
from deployfold.config.real_data import PREPROCESS_JSON
from deployfold.errors import BundleError, DeployfoldError, UsageError
from deployfold.finish.kit import FINISH_JSON
from deployfold.finish.reference import REFERENCE_NPZ
from deployfold.reporting.report import REPORT_JSON, REPORT_MARKDOWN, Report, load_report
from deployfold.reporting.row import Row
from deployfold.runtimes import ONNX_RUNTIME, runtime_of
from deployfold.targets.compute_capability import sm_name

from .manifest import Artifact
from .names import fault


@dataclass(frozen=True)
class Build:
    """The parts of a finished build that a bundle needs.

    Attributes:
        directory: the directory that ``deployfold build`` wrote.
        name: the model's name, which is the prefix of its artifacts' names.
        report: the content of ``report.json``.
        artifacts: the files that run the model.
        files: every file for the bundle, by its name there.
        preprocess: the content of ``preprocess.json``; ``None`` if the model takes no images.
    """

    directory: Path
    name: str
    report: Report
    artifacts: tuple[Artifact, ...]
    files: dict[str, Path]
    preprocess: dict[str, Any] | None

    @property
    def targets(self) -> tuple[str, ...]:
        """The SMs of the engines, such as ``sm_89``."""
        found = {sm for artifact in self.artifacts for sm in artifact.compute_capabilities}
        ordered = sorted(tuple(map(int, sm.split("."))) for sm in found)
        return tuple(sm_name((major, minor)) for major, minor in ordered)


def collect(directory: Path, *, force: bool = False) -> Build:
    """Find the files for a bundle, and check that they are those of the build.

    Args:
        directory: a directory that ``deployfold build`` wrote.
        force: accept a build that failed or missed a limit.

    Raises:
        UsageError: the directory has no report.
        BundleError: the build did not finish or missed a limit, or a file is missing or changed.
    """
    if directory.is_file():
        raise UsageError(
            f"{directory} is a file, but a bundle is made from the directory of a build.",
            hint=f"To check a bundle: deployfold bundle verify {directory}",
        )
    if not directory.is_dir():
        raise UsageError(f"There is no directory {directory}.", hint="deployfold build writes one.")
    report = load_report(directory)
    if not force:
        _check_outcome(report)
    artifacts = tuple(found for row in report.rows if (found := _artifact(directory, row)))
    onnx = next((one for one in artifacts if one.runtime is ONNX_RUNTIME), None)
    if onnx is None:
        raise BundleError(
            f"{directory} has no ONNX, which every bundle needs.", hint="Build it again."
        )
    names = [name for artifact in artifacts for name in artifact.files]
    names += [REPORT_JSON, REFERENCE_NPZ]
    optional = (REPORT_MARKDOWN, FINISH_JSON, PREPROCESS_JSON)
    names += [name for name in optional if (directory / name).is_file()]
    files = {name: directory / name for name in sorted(set(names))}
    for path in files.values():
        if not path.is_file():
            raise BundleError(
                f"{directory} has no {path.name}.", hint="Build it again with this deployfold."
            )
    model = onnx.file.removesuffix(ONNX_RUNTIME.suffix).removesuffix(f".{onnx.precision}")
    for name in files:
        if (wrong := fault(f"{model}/{name}")) is not None:
            raise BundleError(
                f"{model}/{name} {wrong}.", hint="Rename the model, and build it again."
            )
    return Build(
        directory=directory,
        name=model,
        report=report,
        artifacts=artifacts,
        files=files,
        preprocess=_read_json(directory / PREPROCESS_JSON),
    )


def _check_outcome(report: Report) -> None:
    hint = "Build it again, or add --force to bundle it nevertheless."
    status = report.status
    if status.state != "complete":
        why = f": {status.message}" if status.message else "."
        raise BundleError(f"The build {status.state} at {status.stage}{why}", hint=hint)
    missed = [limit.name for limit in report.thresholds if not limit.passed]
    if missed:
        raise BundleError(f"The build missed its limits: {', '.join(missed)}.", hint=hint)


def _artifact(directory: Path, row: Row) -> Artifact | None:
    """The artifact of a row of the report; ``None`` if a bundle does not ship its file."""
    runtime = None if row.artifact is None else runtime_of(row.artifact)
    if row.artifact is None or runtime is None or runtime.shipping is None:
        return None
    shipping, path = runtime.shipping, directory / Path(row.artifact).name
    parts = (path.name, *shipping.parts(path))
    files = (*parts, *shipping.sidecars(path))
    sizes = []
    for file in files:
        if not (directory / file).is_file():
            raise BundleError(
                f"{directory} has no {file}, which its report names.", hint="Build it again."
            )
        sizes.append((directory / file).stat().st_size)
    if row.bytes is not None and sum(sizes[: len(parts)]) != row.bytes:
        raise BundleError(f"{path} has changed since the build.", hint="Build it again.")
    try:
        facts = shipping.facts(path)
    except DeployfoldError as error:
        raise BundleError(error.message, hint=error.hint) from error
    accuracy = row.accuracy
    return Artifact(
        row=row.name,
        title=row.title,
        kind=shipping.kind,
        precision=_precision(row.name),
        file=path.name,
        files=files,
        sqnr_db=None if accuracy is None else accuracy.sqnr_db,
        **facts,
    )


def _precision(row: str) -> str:
    """The precision in the name of a row: ``fp16`` for ``tensorrt-fp16-l4``; fp32 by default."""
    known = [precision.value for precision in Precision]
    return next((word for word in row.split("-") if word in known), Precision.FP32.value)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read: {error}.", hint="Build it again.") from error
    return found if isinstance(found, dict) else None
