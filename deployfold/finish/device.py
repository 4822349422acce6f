"""``deployfold finish DIR``: build, measure and verify on the device, and complete the report.

This module runs without torch, onnx and ONNX Runtime, which a Jetson may lack.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deployfold.building.file_names import engine_of
from deployfold.compiling.records import EngineArtifact, EngineRequest, NoEngine
from deployfold.compiling.sidecar import sidecar_path
from deployfold.compiling.tensorrt.compile import compile_engine
from deployfold.config.build_spec import BuildSpec
from deployfold.config.precision import Precision
from deployfold.errors import CompileError, DeployfoldError, MeasureError, UsageError
from deployfold.events import Emit, Note, StageFinished, StageStarted, ignore
from deployfold.measuring.accuracy import compare
from deployfold.measuring.environment import default_threads, describe
from deployfold.measuring.latency import measure
from deployfold.reporting.layers import EngineLayers
from deployfold.reporting.markdown import render_markdown
from deployfold.reporting.report import Report, load_report, write_report
from deployfold.reporting.row import Accuracy, Row
from deployfold.runtimes import TENSORRT, runtime_of
from deployfold.runtimes.settings import RunSettings
from deployfold.runtimes.tail_name import head_reference, tail_name
from deployfold.runtimes.tensorrt import TensorRTRunner
from deployfold.targets.catalogue import AUTO
from deployfold.targets.compute_capability import sm_names
from deployfold.targets.libraries import LIBRARIES
from deployfold.targets.machine import Machine, detect
from deployfold.util.arrays import Array
from deployfold.util.files import write_text
from deployfold.util.locks import claimed

from .completed_report import STOPPED, completed
from .jobs import Job, plan_jobs
from .kit import Kit, read_kit
from .reference import read_reference


@dataclass(frozen=True)
class _How:
    """The settings for every engine; see :func:`finish`."""

    max_seconds: float
    timeout: float
    cuda_graph: bool
    emit: Emit


def finish(
    directory: Path,
    *,
    targets: Sequence[str] = (),
    precisions: Sequence[Precision] = (),
    max_seconds: float = 10.0,
    timeout: float = BuildSpec.timeout,
    cuda_graph: bool = True,
    emit: Emit = ignore,
) -> Report:
    """Build the engines of a kit on the device, run them there, and complete the build's report.

    1. Without ``targets``, the engines are for the GPU in this machine, even if the kit does not
       name it.
    2. With ``targets``, the engines are for these GPUs. TensorRT-RTX builds without the GPU, and
       such an engine is not run.
    3. If an engine fails, its row gets the reason, and the other engines are still built.

    Args:
        directory: a complete copy of the output of ``deployfold build``.
        targets: GPUs, in the form of ``--target``.
        precisions: some precisions of the kit; empty for those with missing engines.
        max_seconds: time limit for timing one engine.
        timeout: seconds until one build is stopped.
        cuda_graph: launch an engine's work as one CUDA graph where possible.
        emit: called with the events of the stages ``compile`` and ``measure``.

    Returns:
        The completed report, which is also written to the directory.

    Raises:
        UsageError: the kit is missing or damaged, another run works in the directory, there is
            neither a GPU nor a target, or a target or a precision is unknown.
        CompileError: no engine could be built.
    """
    with claimed(directory):
        kit = read_kit(directory)
        report = load_report(kit.report)
        machine = detect()
        if not targets and machine.gpu is None:
            raise UsageError(
                "This machine has no NVIDIA GPU with a driver to finish the build for.",
                hint="Run deployfold finish on the device, or name a GPU that TensorRT-RTX builds "
                "for without it: --target sm_89.",
            )
        how = _How(max_seconds, timeout, cuda_graph, emit)
        jobs = list(plan_jobs(kit, targets or (AUTO,), precisions, machine))
        sidecars = [
            sidecar_path(directory / row.artifact)
            for row in report.rows
            if row.artifact is not None and runtime_of(row.artifact) is TENSORRT
        ]
        if sidecars:  # a killed process may leave one of these engines half replaced
            write_report(report.model_copy(update={"status": STOPPED}), kit.report)
        try:
            rows = _finish_all(jobs, kit, machine, how)
        except DeployfoldError:
            if sidecars and all(sidecar.exists() for sidecar in sidecars):
                write_report(report, kit.report)
            raise
        here = describe(default_threads())
        complete = completed(report, rows, kit, machine, here)
        write_report(complete, kit.report)
        write_text(kit.report.with_suffix(".md"), render_markdown(complete))
        return complete


def _finish_all(jobs: Sequence[Job], kit: Kit, machine: Machine, how: _How) -> list[Row]:
    rows, failures = [], []
    for job in jobs:
        try:
            row = _finish_one(job, kit, machine, how)
        except DeployfoldError as error:
            failures.append(error)
            if len(failures) == len(jobs):
                raise failures[0] from None
            how.emit(Note(error.message, "warning"))
            row = Row(name=job.wanted.row, title=job.wanted.title, not_measured=error.message)
        rows.append(row)
    return rows


def _finish_one(job: Job, kit: Kit, machine: Machine, how: _How) -> Row:
    wanted, entry, emit = job.wanted, job.entry, how.emit
    if isinstance(entry, NoEngine):
        raise CompileError(entry.reason)
    request = replace(
        entry, profiles=wanted.profiles, workspace_mib=wanted.workspace_mib, options=wanted.options
    )
    onnx = kit.onnx[wanted.precision]
    path = engine_of(onnx, request.label)
    title = LIBRARIES[request.library].title
    where = sm_names(request.compute_capabilities)
    emit(StageStarted("compile", f"{title} {wanted.precision.value} for {where}"))
    engine = compile_engine(onnx, path, request, emit=emit, timeout=how.timeout, checked=True)
    emit(StageFinished("compile", f"{title} {engine.library_version}, {where}", engine.seconds))
    row = Row(
        name=wanted.row,
        title=f"{title} {wanted.precision.value}, {request.label}",
        artifact=path.name,
        bytes=engine.bytes,
        notes=_notes(engine, machine, ran=request.verify),
        engine_layers=EngineLayers.of(engine.listing),
        not_measured=f"built for {where}, which is not here; run it there: deployfold finish DIR",
    )
    if not request.verify:
        return row
    return _run(row, path, request, kit, how)


def _run(row: Row, path: Path, request: EngineRequest, kit: Kit, how: _How) -> Row:
    """The row of an engine after it ran on the reference inputs, with latency and accuracy."""
    started, emit = time.monotonic(), how.emit
    # The native code in a version-compatible engine is trusted, because this run built it.
    settings = RunSettings(cuda_graph=how.cuda_graph, trust=request.options.version_compatible)
    runner = TensorRTRunner(path, settings)  # without a tail
    inputs = tuple(kit.inputs.values())
    emit(StageStarted("measure", path.name))
    try:
        expected = _expected(kit, path)
        found = measure({row.name: runner}, inputs, max_seconds=how.max_seconds, emit=emit).rows[0]
        if found.latency is None or found.outputs is None:
            raise MeasureError(found.not_measured or f"{path.name} was not timed.")
        accuracy = _compare(expected, found.outputs)
    except MeasureError as error:
        emit(Note(error.message, "warning"))
        return row.model_copy(update={"not_measured": error.message})
    summary = f"{found.latency.median_ms:.3g} ms, {accuracy.sqnr_db:.1f} dB against the original"
    emit(StageFinished("measure", summary, time.monotonic() - started))
    tail = tail_name(path.name)
    notes = (*row.notes, f"the head alone; {tail} runs behind it") if tail else row.notes
    # The original was not run on this machine, so there is no speed-up.
    latency = found.latency.model_copy(update={"speedup": None})
    done = {"latency": latency, "accuracy": accuracy, "not_measured": None, "notes": notes}
    return row.model_copy(update=done)


def _compare(expected: Sequence[Array], outputs: Sequence[Array]) -> Accuracy:
    try:
        return compare(expected, outputs)
    except MeasureError as error:
        raise MeasureError(error.message, hint="Copy the build's directory again.") from error


def _expected(kit: Kit, engine: Path) -> Sequence[Array]:
    """The reference outputs of an engine: the model's, or of the fp32 head for the head of one.

    Raises:
        MeasureError: the head has no readable reference.
    """
    name = head_reference(engine.name)
    if name is None:
        return tuple(kit.outputs.values())
    path = engine.with_name(name)
    try:
        return read_reference(path)[1]
    except (OSError, ValueError) as error:
        raise MeasureError(
            f"{name} cannot be read: {error}.", hint="Copy the build's directory again."
        ) from error


def _notes(engine: EngineArtifact, machine: Machine, *, ran: bool) -> tuple[str, ...]:
    counts, gpu = engine.layer_counts, machine.gpu
    precision = engine.precision.value
    share = f"{counts.of(engine.precision)} of {counts.compute} compute layers in {precision}"
    where = ""
    if ran and gpu is not None:
        driver = f", driver {gpu.driver_version}" if gpu.driver_version else ""
        where = f" on {gpu.name}{driver}"
    title = LIBRARIES[engine.library].title
    return (share, f"finished{where} with {title} {engine.library_version}", *engine.notes)
