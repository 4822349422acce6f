"""Measures existing artifacts on this machine, in one table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deployfold import __version__
from deployfold.building.artifact import Artifact
from deployfold.building.load_again import inputs_of
from deployfold.building.report import model_inputs
from deployfold.building.rows import Extras, measure_rows, rows_measured
from deployfold.building.settings import run_settings
from deployfold.config.build_spec import BuildSpec
from deployfold.config.engine import EngineOptions
from deployfold.config.inputs import InputSpec, random_origin
from deployfold.config.real_data import PREPROCESS_JSON, CalibrationSpec, PreprocessSpec
from deployfold.data.real_inputs import load_samples
from deployfold.errors import MeasureError, UsageError
from deployfold.events import Emit, StageFinished, StageStarted, ignore
from deployfold.loading import make_inputs
from deployfold.measuring.environment import describe
from deployfold.reporting.conditions import Source
from deployfold.reporting.report import Report, load_report, now
from deployfold.reporting.select import selected_names
from deployfold.runtimes.settings import RunSettings
from deployfold.runtimes.torch_variants import variants_on
from deployfold.scoring import Scoring, find_metrics
from deployfold.util.files import sha256

from .artifacts import Opener, artifacts_of, known_runtime


def bench(
    artifacts: Sequence[Path],
    *,
    inputs: InputSpec | None = None,
    allow_globals: tuple[str, ...] = (),
    trust: bool = False,
    threads: int | None = None,
    max_seconds: float = BuildSpec.max_seconds,
    seed: int = 0,
    batches: tuple[int, ...] = (),
    only: tuple[str, ...] = (),
    data: Path | None = None,
    labels: Path | None = None,
    metrics: tuple[str, ...] = (),
    cold_start: bool = False,
    layers: bool = False,
    cuda_graph: bool = True,
    runtime_cache: Path | None = None,
    providers: tuple[str, ...] = (),
    device: str = BuildSpec.device,
    tf32: bool = True,
    torch_fp16: bool = False,
    torch_compile: bool = False,
    emit: Emit = ignore,
) -> Report:
    """Measure artifacts in interleaved rounds; the first one is the baseline.

    Args:
        artifacts: files, or one directory of a build. The report of the build then has the inputs
            and the path of the original model.
        inputs: the shapes; ``None`` takes them from the report, or from the first file that lists
            its inputs.
        allow_globals, trust: permissions for files that could run code, as for loading.
        threads: CPU threads for every row; ``None`` for the number of physical cores.
        max_seconds: the time limit for warm-up and rounds.
        seed: seed of the random inputs and of the order of the rows.
        batches: also measure the throughput at these batch sizes.
        only: names of the rows to measure in addition to the baseline; empty for all.
        data: a file or folder of real inputs, which are all run; see
            :func:`deployfold.data.real_inputs.load_samples`.
        labels: the labels of these inputs.
        metrics: the task metrics of every row, as ``--metric`` of a build names them.
        cold_start: also measure load to first output, and peak memory, in fresh processes.
        layers: also measure the time of each layer, in the runtimes that tell it.
        cuda_graph, runtime_cache: see :class:`~deployfold.runtimes.RunSettings`.
        providers: execution providers for every ONNX, one row each, in the form of
            :func:`deployfold.runtimes.onnxruntime_providers.resolve_provider`; empty for the CPU's.
        device: the device of every row, in the form of ``--device``.
        tf32: whether fp32 may be rounded to TF32 on a GPU, in every row.
        torch_fp16, torch_compile: also run pickled modules in fp16, and with ``torch.compile``. A
            GPU always has the row in fp16.
        emit: receives the events of the measurement.

    Raises:
        UsageError: there is nothing to measure or no such device, the input shapes are not known, a
            name in ``only`` or ``metrics`` is unknown, or the data or labels cannot be used.
        LoadError: a pickled module may not be loaded.
    """
    spec = BuildSpec(
        source=str(artifacts[0]),
        threads=threads,
        max_seconds=max_seconds,
        seed=seed,
        device=device,
        cuda_graph=cuda_graph,
        options=EngineOptions(tf32=tf32),
    )
    missing = [path for path in artifacts if not path.exists()]
    if missing:
        raise UsageError(f"{missing[0]} does not exist.", hint="deployfold build makes artifacts.")
    scoring = Scoring(find_metrics(metrics)) if metrics else None
    settings = replace(
        run_settings(spec), runtime_cache=runtime_cache, trust=trust, allow_globals=allow_globals
    )
    variants = variants_on(settings.device, fp16=torch_fp16, compiled=torch_compile)
    opener = Opener(settings, providers, variants)
    if artifacts[0].is_dir():
        table = _table_of_build(artifacts, inputs, opener)
    else:
        table = _table_of_files(artifacts, inputs, opener)
    shapes, notes = table.inputs, [*table.notes]
    wanted = selected_names([artifact.name for artifact in table.artifacts], only)
    measured = [artifact for artifact in table.artifacts if artifact.name in wanted]
    described, read = random_origin(seed), None
    if data is not None:
        samples = CalibrationSpec(str(data), labels=labels, preprocess=table.preprocess)
        read = load_samples(samples, shapes, arch=table.source.arch, every=True)
        described = f"{data.name}, {len(read.feeds) * shapes.batch} samples"
        notes += read.notes
    elif labels is not None:
        raise UsageError("Labels need the inputs they belong to.", hint="Add --inputs FILE.")
    feeds, known = (read.tensors(shapes), read.labels) if read is not None else ((), None)
    if scoring is not None:
        scoring.check(known)
    emit(StageStarted("measure", f"{len(measured)} artifacts"))
    start = time.perf_counter()
    rows = measure_rows(
        measured,
        feeds[0] if feeds else make_inputs(shapes, seed=seed),
        spec,
        extras=Extras(
            batches=batches,
            make_inputs=lambda batch: make_inputs(shapes.with_batch(batch), seed=seed),
            feeds=feeds,
            labels=known,
            scoring=scoring,
            cold_start=cold_start,
            layers=layers,
        ),
        emit=emit,
    )
    emit(StageFinished("measure", rows_measured(rows), time.perf_counter() - start))
    return Report(
        deployfold_version=__version__,
        created=now(),
        source=table.source,
        inputs=model_inputs(shapes),
        input_origin=shapes.origin,
        input_data=described,
        rows=rows,
        notes=tuple(notes),
        environment=describe(settings.threads, settings.device),
    )


@dataclass(frozen=True, eq=False)
class _Table:
    """The rows that can be measured, the baseline first, and what they have in common.

    Attributes:
        artifacts: one row each.
        inputs: the inputs of all rows.
        source: the origin of the baseline.
        preprocess: how images become inputs.
        notes: a sentence on each row that is left out.
    """

    artifacts: list[Artifact]
    inputs: InputSpec
    source: Source
    preprocess: PreprocessSpec
    notes: tuple[str, ...] = ()


def _table_of_build(artifacts: Sequence[Path], inputs: InputSpec | None, opener: Opener) -> _Table:
    """The rows of a build, whose directory is the only one of ``artifacts``."""
    directory, notes = artifacts[0], list[str]()
    if len(artifacts) > 1:
        raise UsageError("Give either one directory or files, not both.")
    report = load_report(directory)
    inputs = inputs or inputs_of(report)
    found = artifacts_of(directory, report, inputs, opener, notes)
    if not found:
        raise UsageError(f"No artifact of the build is left in {directory}.")
    steps = directory / PREPROCESS_JSON
    preprocess = PreprocessSpec(str(steps)) if steps.is_file() else PreprocessSpec()
    return _Table(found, inputs, report.source, preprocess, tuple(notes))


def _table_of_files(artifacts: Sequence[Path], inputs: InputSpec | None, opener: Opener) -> _Table:
    """The rows of single files."""
    first = artifacts[0]
    source = Source(
        path=str(first), kind="artifact", sha256=sha256(first), bytes=first.stat().st_size
    )
    found = [
        one
        for name, path in zip(_distinct(artifacts), artifacts, strict=True)
        for one in opener.rows(path, Artifact(name, name))
    ]
    inputs = inputs or _stated_inputs(artifacts, opener.settings)
    return _Table(found, inputs, source, PreprocessSpec())


def _distinct(paths: Sequence[Path]) -> list[str]:
    """A name for each path: its last part, or as many parts as make the names different."""
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    if len(set(names)) < len(names):
        raise UsageError("The same file is given twice.")
    return names


def _stated_inputs(paths: Sequence[Path], settings: RunSettings) -> InputSpec:
    failure: MeasureError | None = None
    for path in paths:
        runtime = known_runtime(path)
        if runtime.states_inputs:
            try:
                return runtime.open(path, settings).inputs()
            except MeasureError as error:  # only the row of the unreadable file fails
                failure = failure or error
    raise failure or UsageError(
        "None of these files lists the shapes of its inputs.",
        hint="Add --input, for example --input 1x3x224x224.",
    )
