"""The artifacts of a bench: files opened by their runtimes, and the original of a build."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from deployfold.building.artifact import Artifact
from deployfold.building.load_again import load_again, named_code
from deployfold.config.inputs import InputSpec
from deployfold.errors import DeployfoldError, LoadError, UsageError
from deployfold.reporting.conditions import Source
from deployfold.reporting.report import Report
from deployfold.reporting.row import Row
from deployfold.runtimes import ONNX_RUNTIME, all_runtimes, runtime_of
from deployfold.runtimes.eager import CheckpointRunner, EagerRunner
from deployfold.runtimes.protocol import Runner
from deployfold.runtimes.runtime import Runtime
from deployfold.runtimes.settings import RunSettings
from deployfold.runtimes.torch_variants import Variant
from deployfold.util.files import sha256


@dataclass(frozen=True)
class Opener:
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


def artifacts_of(
    directory: Path, report: Report, inputs: InputSpec, opener: Opener, notes: list[str]
) -> list[Artifact]:
    """The rows of a build that can be run again, the original first.

    Args:
        directory: the directory of the build.
        report: the report of the build.
        inputs: the inputs of the files.
        opener: the settings for opening the files.
        notes: receives a sentence if the original is left out.
    """
    chosen_rows = []
    for row in report.rows:
        artifact = Artifact(
            row.name, row.title, None, None, row.parameters, row.batchnorm_layers, row.bytes,
            notes=row.notes, quantization=row.quantization, engine_layers=row.engine_layers,
        )  # fmt: skip
        path = None if row.artifact is None else directory / row.artifact
        if row is report.rows[0]:
            try:
                runner = original(report, inputs, opener.settings)
                chosen_rows.append(replace(artifact, runner=runner))
            except LeftOut as reason:
                notes.append(f"The original {report.source.path} {reason}.")
        elif path is None or not path.is_file():
            continue
        elif _not_for_the_cpu(row) and not opener.providers:
            # The build's reason for not running a lowered ONNX on the CPU applies here too.
            chosen_rows.append(
                replace(artifact, path=path, accuracy=row.accuracy, not_measured=row.not_measured)
            )
        else:
            chosen_rows += opener.rows(path, artifact)
    return chosen_rows


def _not_for_the_cpu(row: Row) -> bool:
    """Whether the row is a lowered ONNX, which the build did not run on the CPU."""
    runtime = None if row.artifact is None else runtime_of(row.artifact)
    lowered = row.accuracy is not None and row.latency is None  # measured when it was lowered
    return runtime is not None and runtime.takes_provider and lowered


class LeftOut(Exception):
    """The reason why a bench has no row of the original, as the end of a sentence."""


def original(report: Report, inputs: InputSpec, settings: RunSettings) -> Runner:
    """A runner of the original model: the same weights, in the precision that the build ran.

    Args:
        report: the report of the build.
        inputs: the inputs of the build's files.
        settings: how to run the model, and what its file may do.

    Raises:
        LeftOut: the model is gone or another one, or the report names code to run.
        LoadError: the file needs a permission that the build had.
    """
    source = report.source
    if source.kind not in ("zoo", "factory") and not Path(source.path).exists():
        raise LeftOut("no longer exists")
    code = named_code(report)
    if code is not None and not settings.trust:
        raise LeftOut(f"is left out: the report names code, {code}; --trust runs that code")
    if "reestimate-bn" in (report.options or {}):
        raise LeftOut("is left out: --reestimate-bn changed its BatchNorm statistics")
    try:
        model = load_again(
            report, inputs, allow_globals=settings.allow_globals, trust=settings.trust
        )
    except LoadError:
        if _changed(source):
            raise LeftOut("has changed since the build") from None
        raise
    except DeployfoldError as error:
        raise LeftOut(f"is left out: {error.message.rstrip('.')}") from error
    if model.sha256 != source.sha256:
        raise LeftOut("has changed since the build")
    path = getattr(model.module, "path", None)
    if model.kind == "onnx" and path == Path(source.path):  # not a copy that takes raw frames
        return ONNX_RUNTIME.open(path, settings)
    return EagerRunner(model.module, device=settings.device, cuda_graph=settings.cuda_graph)


def _changed(source: Source) -> bool:
    """Whether a file that cannot be loaded is another file than that of the build."""
    path = Path(source.path)
    return path.is_file() and source.sha256 not in (None, sha256(path))
