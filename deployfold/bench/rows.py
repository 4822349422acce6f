"""Makes the rows of a bench: the files, opened by their runtimes, and the original model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from deployfold.building.artifact import Artifact
from deployfold.config.inputs import InputSpec
from deployfold.errors import UsageError
from deployfold.reporting.report import Report
from deployfold.reporting.row import Row
from deployfold.runtimes import all_runtimes, runtime_of
from deployfold.runtimes.eager import CheckpointRunner
from deployfold.runtimes.runtime import Runtime
from deployfold.runtimes.settings import RunSettings
from deployfold.runtimes.torch_variants import Variant

from .original import LeftOut, original


@dataclass(frozen=True)
class Opening:
    """The settings for opening artifacts.

    Attributes:
        settings: the settings for running the files.
        providers: the execution providers of an ONNX.
        variants: further rows of a pickled module.
    """

    settings: RunSettings
    providers: tuple[str, ...]
    variants: tuple[Variant, ...] = ()

    def rows(self, path: Path, artifact: Artifact) -> list[Artifact]:
        """The rows of the file at ``path``, each with its runner.

        An ONNX has a row for each provider, and a pickled module one for each variant.
        """
        runtime = known_runtime(path)
        artifact = replace(artifact, path=path, bytes=path.stat().st_size)
        found: dict[str, Artifact] = {}
        for provider in (runtime.takes_provider and self.providers) or (None,):
            runner = runtime.open(path, replace(self.settings, provider=provider))
            name, title = artifact.name, artifact.title
            if label := runner.variant:
                name, title = f"{name}-{label.lower()}", f"{title}, {label}"
            row = replace(artifact, name=name, title=title, runner=runner)
            found.setdefault(name, row)
            if isinstance(runner, CheckpointRunner) and (module := runner.eager_module) is not None:
                for one in row.variants(self.variants, module, self.settings.device):
                    found[one.name] = one
        return list(found.values())


def known_runtime(path: Path) -> Runtime:
    """The runtime of a file.

    Raises:
        UsageError: no runtime opens it.
    """
    runtime = runtime_of(path)
    if runtime is None:
        known = ", ".join(suffix for one in all_runtimes() for suffix in one.suffixes)
        raise UsageError(
            f"{path} is not an artifact that can be measured.", hint=f"Known: {known}."
        )
    return runtime


def rows_of(
    directory: Path, report: Report, inputs: InputSpec, opening: Opening, notes: list[str]
) -> list[Artifact]:
    """The rows of a build that can be run again, the original first.

    Args:
        directory: the directory of the build.
        report: the report of the build.
        inputs: the inputs of the files.
        opening: the settings for opening the files.
        notes: receives a sentence if the original is left out.
    """
    chosen_rows = []
    for row in report.rows:
        artifact = Artifact(
            row.name, row.title, None, None, row.parameters, row.batchnorm_layers, row.bytes,
            notes=row.notes, quantization=row.quantization, engine_layers=row.engine_layers,
        )  # fmt: skip
        path = None if row.artifact is None else directory / row.artifact
        if row is report.baseline:
            try:
                runner = original(report, inputs, opening.settings)
                chosen_rows.append(replace(artifact, runner=runner))
            except LeftOut as reason:
                notes.append(f"The original {report.source.path} {reason}.")
        elif path is None or not path.is_file():
            continue
        elif _not_for_the_cpu(row) and not opening.providers:
            # The build's reason for not running a lowered ONNX on the CPU applies here too.
            chosen_rows.append(
                replace(artifact, path=path, accuracy=row.accuracy, not_measured=row.not_measured)
            )
        else:
            chosen_rows += opening.rows(path, artifact)
    return chosen_rows


def _not_for_the_cpu(row: Row) -> bool:
    """Whether the row is a lowered ONNX, which the build did not run on the CPU."""
    runtime = None if row.artifact is None else runtime_of(row.artifact)
    lowered = row.accuracy is not None and row.latency is None  # measured when it was lowered
    return runtime is not None and runtime.takes_provider and lowered
