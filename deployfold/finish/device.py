"""``deployfold finish DIR``: build, measure and verify on the device, and complete the report.

Nothing here imports torch, onnx or ONNX Runtime: a Jetson has none of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from deployfold.compiling import (
    EngineArtifact,
    EngineRequest,
    Machine,
    NoEngine,
    compile_engine,
    detect,
    load_targets,
    plan_engines,
    resolve,
)
from deployfold.compiling.planning import PORTABLE
from deployfold.compiling.sidecar import sidecar_path
from deployfold.config.precision import Precision
from deployfold.config.spec import Thresholds
from deployfold.errors import CompileError, DeployfoldError, MeasureError, UsageError
from deployfold.events import Emit, Note, StageFinished, StageStarted, ignore
from deployfold.measuring.environment import default_threads, describe
from deployfold.reporting.markdown import render_markdown
from deployfold.reporting.report import (
    Environment,
    Report,
    Row,
    Status,
    load_report,
    now,
    write_report,
)
from deployfold.reporting.thresholds import check
from deployfold.runtimes import ONNX_RUNTIME, TENSORRT, runtime_of
from deployfold.runtimes.cuda import Cuda
from deployfold.runtimes.tensorrt_engine import EngineRunner
from deployfold.runtimes.tensorrt_library import RunOptions
from deployfold.targets.catalogue import AUTO
from deployfold.targets.compute_capability import sm_names
from deployfold.targets.libraries import LIBRARIES
from deployfold.util.files import write_text
from deployfold.util.locks import claimed

from .kit import Kit, Wanted, copy_note, is_copy_note, read_kit
from .timing import time_engine
from .verify import compare_outputs

_THERE = "measured where it was built:"
_STOPPED = Status(
    state="interrupted",
    stage="compile",
    message="deployfold finish ended before its engines were whole; run it again",
)


@dataclass(frozen=True)
class _How:
    """How every engine is built and run; see :func:`finish`."""

    max_seconds: float
    timeout: float
    cuda_graph: bool
    emit: Emit


@dataclass(frozen=True)
class _Job:
    """One engine to build: what the kit wants of it, and where it goes in the report."""

    wanted: Wanted
    entry: EngineRequest | NoEngine


def finish(
    directory: Path,
    *,
    targets: Sequence[str] = (),
    precisions: Sequence[Precision] = (),
    max_seconds: float = 10.0,
    timeout: float = 1800.0,
    cuda_graph: bool = True,
    emit: Emit = ignore,
) -> Report:
    """Build the engines of a build's kit here, run them where the GPU is, and complete its report.

    1. Without ``targets``: for the GPU in this machine, whether the kit names it or not.
    2. With them: for those. TensorRT-RTX builds without their GPU; such an engine is not run.
    3. An engine that fails costs its row the sentence that says why, and the others go on.

    Args:
        directory: that ``deployfold build`` wrote, copied here as a whole.
        targets: GPUs as ``--target`` takes them.
        precisions: of the kit's; all if empty.
        max_seconds: of timing one engine.
        timeout: seconds until one build is stopped.
        cuda_graph: launch an engine's work as one CUDA graph, where that can be.

    Returns:
        The completed report, which is written, too.

    Raises:
        UsageError: the directory holds no kit or a damaged one, another run is at work in it,
            there is no GPU and no target, or a target or a precision is unknown.
        CompileError: no engine could be built at all.
    """
    with claimed(directory):
        kit = read_kit(directory)
        report = load_report(kit.report)
        machine = detect()
        if not targets and machine.gpu is None:
            raise UsageError(
                "There is no NVIDIA GPU with a driver here to finish the build for.",
                hint="Run it on the device, or name a GPU that TensorRT-RTX builds for without it: "
                "--target sm_89.",
            )
        how = _How(max_seconds, timeout, cuda_graph, emit)
        jobs = list(_jobs(kit, targets or (AUTO,), precisions, machine))
        sidecars = [
            sidecar_path(directory / row.artifact)
            for row in report.rows
            if row.artifact is not None and runtime_of(row.artifact) is TENSORRT
        ]
        if sidecars:  # an engine that it names may be half replaced when this is killed
            write_report(report.model_copy(update={"status": _STOPPED}), kit.report)
        try:
            rows = _finish_all(jobs, kit, machine, how)
        except DeployfoldError:
            if sidecars and all(sidecar.exists() for sidecar in sidecars):
                write_report(report, kit.report)
            raise
        here = Environment.model_validate(describe(default_threads()))
        complete = _complete(report, rows, kit, machine, here)
        write_report(complete, kit.report)
        write_text(kit.report.with_suffix(".md"), render_markdown(complete))
        return complete


def _finish_all(jobs: Sequence[_Job], kit: Kit, machine: Machine, how: _How) -> list[Row]:
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


def _jobs(
    kit: Kit, targets: Sequence[str], precisions: Sequence[Precision], machine: Machine
) -> Iterator[_Job]:
    missing = [precision.value for precision in precisions if precision not in kit.onnx]
    if missing:
        have = ", ".join(precision.value for precision in kit.onnx)
        raise UsageError(f"The build has no {missing[0]} ONNX.", hint=f"It has {have}.")
    wanted = {one.precision for one in kit.wanted}
    for precision in precisions or [one for one in kit.onnx if one in wanted] or list(kit.onnx):
        for entry in plan_engines(targets, precision, machine):
            yield _Job(_wanted(kit, entry, precision, machine), entry)


def _wanted(
    kit: Kit, entry: EngineRequest | NoEngine, precision: Precision, machine: Machine
) -> Wanted:
    """What the kit says of this engine; of one for a GPU it does not name, what it says of others.

    The latter's row is a new one.
    """
    same = [one for one in kit.wanted if one.precision is precision]
    for one in same:
        if _is_for(one.target, entry, machine):
            return one
    label = entry.target if isinstance(entry, NoEngine) else entry.label
    row = f"tensorrt-{precision.value}-{label}"
    title = f"TensorRT {precision.value}, {label}"
    if same:
        return replace(same[0], row=row, title=title, target=label)
    return Wanted(row, title, label, precision)


def _is_for(target: str, entry: EngineRequest | NoEngine, machine: Machine) -> bool:
    """Whether an engine that the kit wants for ``target`` is the one about to be built."""
    if isinstance(entry, NoEngine):
        return target == entry.target
    if target in entry.targets:
        return True
    if target in (AUTO, PORTABLE) or "," in target:
        return False  # no single GPU's
    gpu = resolve(target, load_targets())
    if entry.current_gpu:
        return machine.holds(gpu)
    return entry.compute_capabilities == (gpu.compute_capability,)


def _finish_one(job: _Job, kit: Kit, machine: Machine, how: _How) -> Row:
    wanted, entry, emit = job.wanted, job.entry, how.emit
    if isinstance(entry, NoEngine):
        raise CompileError(entry.reason)
    request = replace(
        entry,
        profiles=wanted.profiles,
        workspace_mib=wanted.workspace_mib,
        options=wanted.options,
    )
    onnx = kit.onnx[wanted.precision]
    stem = onnx.name.removesuffix(ONNX_RUNTIME.suffix)
    path = onnx.with_name(f"{stem}.{request.label}{TENSORRT.suffix}")
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
        not_measured=f"a weight-stripped engine for {where} does not run before it is refitted"
        if request.options.strip_plan
        else f"built for {where}, which is not here; run it there: deployfold finish DIR",
    )
    if not request.verify or request.options.strip_plan:
        return row
    return _run(row, request, kit, how)


def _run(row: Row, request: EngineRequest, kit: Kit, how: _How) -> Row:
    """Run the engine on the reference inputs, time it, and compare its outputs."""
    started, emit = time.monotonic(), how.emit
    # A version-compatible engine carries native code; this one was built here a moment ago.
    options = RunOptions(how.cuda_graph, allow_host_code=request.options.version_compatible)
    assert row.artifact is not None
    path = kit.report.with_name(row.artifact)
    emit(StageStarted("measure", path.name))
    try:
        with closing(Cuda()) as cuda, closing(EngineRunner(path, cuda, options)) as runner:
            runner.load()
            runner.bind(kit.inputs)
            runner.step()
            accuracy = compare_outputs(kit.outputs, runner.outputs())
            batch = _batch(kit)
            uuid = cuda.uuid
            latency = time_engine(
                runner.step, batch, max_seconds=how.max_seconds, gpu=uuid, emit=emit
            )
    except MeasureError as error:
        emit(Note(error.message, "warning"))
        return row.model_copy(update={"not_measured": error.message})
    summary = f"{latency.median_ms:.3g} ms, {accuracy.sqnr_db:.1f} dB against the original"
    emit(StageFinished("measure", summary, time.monotonic() - started))
    return row.model_copy(update={"latency": latency, "accuracy": accuracy, "not_measured": None})


def _batch(kit: Kit) -> int:
    first = next(iter(kit.inputs.values()), None)
    return int(first.shape[0]) if first is not None and first.ndim else 1


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


def _complete(
    report: Report, rows: Sequence[Row], kit: Kit, machine: Machine, here: Environment
) -> Report:
    """The report with its rows replaced, new ones at the end, and its limits held against them.

    Its environment is the device's; rows that were measured where the build ran say so.
    """
    by_name = {row.name: row for row in rows}
    kept = [_merge(old, by_name.pop(old.name, None)) for old in report.rows]
    there = report.environment
    if (here.cpu, here.gpu, here.os) != (there.cpu, there.gpu, there.os):
        kept = [_measured_elsewhere(row, there, rows) for row in kept]
    every = (*kept, *by_name.values())
    left = [one.target for one in kit.wanted if _has_no_engine(one, every)]
    notes = [note for note in report.notes if not is_copy_note(note)]
    if left:
        notes.append(copy_note(left))
    where = "without a GPU" if machine.gpu is None else f"on {machine.gpu.name}"
    note = f"Finished {where}, {now()}: {', '.join(row.name for row in rows)}."
    return report.model_copy(
        update={
            "rows": every,
            "status": Status() if report.status == _STOPPED else report.status,
            "notes": (*notes, note),
            "environment": here,
            "thresholds": check(every, _limits(report)) if report.thresholds else (),
        }
    )


def _has_no_engine(wanted: Wanted, rows: Sequence[Row]) -> bool:
    return not any(row.name == wanted.row and row.artifact is not None for row in rows)


def _measured_elsewhere(row: Row, built_on: Environment, finished: Sequence[Row]) -> Row:
    """A row whose latency is from the machine that ran the build, with a note on that machine."""
    if row in finished or row.latency is None or any(note.startswith(_THERE) for note in row.notes):
        return row
    threads = "1 thread" if built_on.threads == 1 else f"{built_on.threads} threads"
    where = " · ".join([built_on.cpu, *([built_on.gpu] if built_on.gpu else []), threads])
    return row.model_copy(update={"notes": (*row.notes, f"{_THERE} {where}")})


def _merge(old: Row, new: Row | None) -> Row:
    """The new row with what only the build could tell: parameters, BatchNorms, INT8's layers.

    An engine that was there before stays where none came of this one.
    """
    if new is None or (new.artifact is None and old.artifact is not None):
        return old
    if new.artifact is None:
        return old.model_copy(update={"not_measured": new.not_measured})
    return new.model_copy(
        update={
            "parameters": old.parameters,
            "batchnorm_layers": old.batchnorm_layers,
            "quantization": old.quantization,
        }
    )


def _limits(report: Report) -> Thresholds:
    """The limits that the build was given, from their results."""
    found = {one.name: one.limit for one in report.thresholds}

    def of_rows(name: str) -> tuple[tuple[str, float], ...]:
        limits = [(one.row, one.limit) for one in report.thresholds if one.name == name]
        return tuple((row, limit) for row, limit in limits if row is not None)

    return Thresholds(
        min_speedup=found.get("min-speedup"),
        max_diff=found.get("max-diff"),
        max_latency_ms=of_rows("max-latency-ms"),
        max_diff_of=of_rows("max-diff-of"),
        min_speedup_of=of_rows("min-speedup-of"),
    )
