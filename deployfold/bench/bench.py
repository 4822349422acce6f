"""Measuring artifacts that exist already, side by side, on the machine at hand."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from deployfold import __version__
from deployfold.building.artifact import Artifact
from deployfold.building.report import model_inputs
from deployfold.building.rows import Extras, measure_rows
from deployfold.config.build_spec import BuildSpec
from deployfold.config.engine import EngineOptions
from deployfold.config.inputs import InputSpec, TensorSpec
from deployfold.config.real_data import CalibrationSpec
from deployfold.data.real_inputs import load_samples
from deployfold.errors import MeasureError, UsageError
from deployfold.events import Emit, StageFinished, StageStarted, ignore
from deployfold.loading import make_inputs
from deployfold.loading.zoo import is_zoo_name
from deployfold.measuring.environment import default_threads, describe
from deployfold.reporting.report import Environment, Report, Row, Source, load_report, now
from deployfold.reporting.select import chosen
from deployfold.runtimes import all_runtimes, runtime_of
from deployfold.runtimes.device_choice import resolve_device
from deployfold.runtimes.eager import CheckpointRunner
from deployfold.runtimes.protocol import Runner
from deployfold.runtimes.runtime import Runtime
from deployfold.runtimes.settings import RunSettings
from deployfold.runtimes.tensorrt_library import RunOptions
from deployfold.util.files import sha256


def bench(
    artifacts: Sequence[Path],
    *,
    inputs: InputSpec | None = None,
    allow_globals: tuple[str, ...] = (),
    trust: bool = False,
    threads: int | None = None,
    max_seconds: float = 30.0,
    seed: int = 0,
    batches: tuple[int, ...] = (),
    only: tuple[str, ...] = (),
    data: Path | None = None,
    labels: Path | None = None,
    cold_start: bool = False,
    engines: RunOptions | None = None,
    providers: tuple[str, ...] = (),
    device: str = "auto",
    tf32: bool = True,
    emit: Emit = ignore,
) -> Report:
    """Measure artifacts in interleaved rounds; the first one is the baseline.

    Args:
        artifacts: files, or one directory that a build wrote, whose report then gives the inputs
            and the original model, if that is still where it was.
        inputs: shapes; from the report, or from the first file that states them, if ``None``.
        allow_globals, trust: for files that could run code, as for loading.
        seed: of the random inputs and of the order of the rows.
        batches: also measure the throughput at these batch sizes.
        only: names of the rows to measure beside the baseline; all if empty.
        data: a file or folder of real inputs; all are run; see
            :func:`deployfold.data.real_inputs.load_samples`.
        labels: the classes of those inputs.
        cold_start: also measure load to first output, and peak memory, in fresh processes.
        engines: how engines are run.
        providers: execution providers for every ONNX, one row each, as
            :func:`.runtimes.onnxruntime_providers.resolve_provider` takes them; the CPU's if
            empty.

        device: where every row runs, as ``--device`` takes it.
        tf32: fp32 may be rounded to TF32 on a GPU, in every row.

    Raises:
        UsageError: there is nothing to measure or no such device, the input shapes are not known, a
            name of ``only`` is not that of a row, or the data cannot be used.
        LoadError: a pickled module may not be loaded.
    """
    spec = BuildSpec(
        source=str(artifacts[0]),
        threads=threads,
        max_seconds=max_seconds,
        seed=seed,
        device=device,
        options=EngineOptions(tf32=tf32),
    )
    missing = [path for path in artifacts if not path.exists()]
    if missing:
        raise UsageError(f"{missing[0]} does not exist.", hint="deployfold build makes artifacts.")
    settings = RunSettings(
        threads=threads or default_threads(),
        device=resolve_device(device),
        tf32=tf32,
        engine=engines or RunOptions(),
        trust=trust,
        allow_globals=allow_globals,
    )
    loading = _Loading(settings, providers)
    notes: list[str] = []
    if artifacts[0].is_dir():
        if len(artifacts) > 1:
            raise UsageError("Give one directory, or files.")
        previous = load_report(artifacts[0])
        inputs = inputs or _inputs_of_report(previous)
        source = previous.source
        chosen_rows = _rows_of(artifacts[0], previous, loading, notes)
        if not chosen_rows:
            raise UsageError(f"No artifact of the build is left in {artifacts[0]}.")
    else:
        first = artifacts[0]
        source = Source(
            path=str(first), kind="artifact", sha256=sha256(first), bytes=first.stat().st_size
        )
        chosen_rows = [
            one
            for name, path in zip(_distinct(artifacts), artifacts, strict=True)
            for one in loading.rows(Artifact(name, name, path=path))
        ]
        inputs = inputs or _stated_inputs(artifacts, settings)
    names = [artifact.name for artifact in chosen_rows]
    chosen_rows = [artifact for artifact in chosen_rows if artifact.name in chosen(names, only)]
    shapes, described = inputs, f"seeded random (seed {seed})"
    feeds: tuple[tuple[torch.Tensor, ...], ...] = ()
    known = None
    if data is not None:
        read = load_samples(
            CalibrationSpec(str(data), labels=labels), inputs, arch=source.arch, every=True
        )
        feeds, known = read.tensors(inputs), read.labels
        described = f"{data.name}, {len(feeds) * inputs.batch} samples"
        notes += read.notes
    elif labels is not None:
        raise UsageError("Labels need the inputs they belong to.", hint="Add --inputs FILE.")
    emit(StageStarted("measure", f"{len(chosen_rows)} artifacts"))
    start = time.perf_counter()
    rows = measure_rows(
        chosen_rows,
        feeds[0] if feeds else make_inputs(inputs, seed=seed),
        spec,
        extras=Extras(
            batches=batches,
            make_inputs=lambda batch: make_inputs(shapes.with_batch(batch), seed=seed),
            feeds=feeds,
            labels=known,
            cold_start=cold_start,
        ),
        emit=emit,
    )
    measured = sum(row.latency is not None for row in rows)
    summary = f"{measured} of {len(rows)} rows measured"
    emit(StageFinished("measure", summary, time.perf_counter() - start))
    return Report(
        deployfold_version=__version__,
        created=now(),
        source=source,
        inputs=model_inputs(inputs),
        input_origin=inputs.origin,
        input_data=described,
        rows=rows,
        notes=tuple(notes),
        environment=Environment.model_validate(describe(threads or default_threads())),
    )


@dataclass(frozen=True)
class _Loading:
    """How artifacts are opened; ``providers`` are the execution providers of an ONNX."""

    settings: RunSettings
    providers: tuple[str, ...]

    def rows(self, artifact: Artifact) -> list[Artifact]:
        """The rows of a file, each with its runner: one, or of an ONNX one for every provider."""
        path = artifact.path
        assert path is not None
        runtime = _runtime(path)
        artifact = replace(artifact, bytes=path.stat().st_size)
        found: dict[str, Artifact] = {}
        for provider in (runtime.takes_provider and self.providers) or (None,):
            runner = runtime.open(path, replace(self.settings, provider=provider))
            name, title = artifact.name, artifact.title
            if label := runner.variant:
                name, title = f"{name}-{label.lower()}", f"{title}, {label}"
            found.setdefault(name, replace(artifact, name=name, title=title, runner=runner))
        return list(found.values())

    def original(self, source: str, arch: str | None = None) -> Runner:
        """The model that a build began with."""
        return CheckpointRunner(source, self.settings, arch)


def _runtime(path: Path) -> Runtime:
    runtime = runtime_of(path)
    if runtime is None:
        known = ", ".join(suffix for one in all_runtimes() for suffix in one.suffixes)
        raise UsageError(
            f"{path} is not an artifact that can be measured.", hint=f"Known: {known}."
        )
    return runtime


def _rows_of(
    directory: Path, report: Report, loading: _Loading, notes: list[str]
) -> list[Artifact]:
    """The rows of the build that can be run again, the original first."""
    chosen_rows = []
    for row in report.rows:
        artifact = Artifact(
            row.name, row.title, None, None, row.parameters, row.batchnorm_layers, row.bytes,
            notes=row.notes, quantization=row.quantization,
        )  # fmt: skip
        path = None if row.artifact is None else directory / row.artifact
        if row is report.baseline:
            runner = _original(report.source, loading, notes)
            chosen_rows += [] if runner is None else [replace(artifact, runner=runner)]
        elif path is None or not path.is_file():
            continue
        elif _not_for_the_cpu(row) and not loading.providers:
            # The build had a reason not to run a lowered ONNX, which holds here too.
            chosen_rows.append(
                replace(artifact, path=path, accuracy=row.accuracy, not_measured=row.not_measured)
            )
        else:
            chosen_rows += loading.rows(replace(artifact, path=path))
    return chosen_rows


def _not_for_the_cpu(row: Row) -> bool:
    """Whether the row is a lowered ONNX that the build had a reason not to run on the CPU."""
    runtime = None if row.artifact is None else runtime_of(row.artifact)
    lowered = row.accuracy is not None and row.latency is None  # measured when it was lowered
    return runtime is not None and runtime.takes_provider and lowered


def _original(source: Source, loading: _Loading, notes: list[str]) -> Runner | None:
    """The model that the build began with, if it is still what it was."""
    path = Path(source.path)
    if source.kind == "zoo":
        return loading.original(source.path)
    if not path.is_file():
        notes.append(f"The original {source.path} is not there any more.")
        return None
    if source.sha256 is not None and sha256(path) != source.sha256:
        notes.append(f"The original {source.path} has changed since the build.")
        return None
    arch = source.arch if source.kind == "state_dict" else None
    if arch is not None and not is_zoo_name(arch) and not loading.settings.trust:
        # A report can come from anywhere: import what it names only for a user who trusts it.
        notes.append(
            f"The original {source.path} is left out: its architecture {arch} is code, which the "
            "report names and --trust runs."
        )
        return None
    return loading.original(str(path), arch)


def _distinct(paths: Sequence[Path]) -> list[str]:
    """A name for each path: its last part, or as much as tells it from the others."""
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    if len(set(names)) < len(names):
        raise UsageError("The same file is given twice.")
    return names


def _inputs_of_report(report: Report) -> InputSpec:
    tensors = tuple(TensorSpec(item.shape, item.name, item.dtype) for item in report.inputs)
    return InputSpec(tensors, origin="the report of the build")


def _stated_inputs(paths: Sequence[Path], settings: RunSettings) -> InputSpec:
    failure: MeasureError | None = None
    for path in paths:
        runtime = _runtime(path)
        if runtime.states_inputs:
            try:
                return runtime.open(path, settings).inputs()
            except MeasureError as error:  # a file that cannot be read costs its row alone
                failure = failure or error
    raise failure or UsageError(
        "None of these files says what shape its inputs have.",
        hint="Give it with --input, for example --input 1x3x224x224.",
    )
