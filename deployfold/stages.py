"""What each stage of a build does, between the packages that do the work and the report.

A stage that fails in a way that leaves the others useful costs one row; anything else raises.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from deployfold import __version__
from deployfold.compile import EngineRequest, NoEngine, compile_engine, detect, plan_engines
from deployfold.compile.request import LIBRARY_TITLES, profile_from_inputs
from deployfold.errors import ExportError
from deployfold.events import Emit, Note, StageFinished, StageStarted
from deployfold.export import export_onnx, export_program, export_torchscript
from deployfold.files import atomic_path
from deployfold.fold import FoldResult, fold
from deployfold.load import LoadedModel, load_model, make_inputs, resolve_inputs
from deployfold.lower import lower_fp16
from deployfold.measure.environment import default_threads
from deployfold.measure.results import MeasurementInterrupted
from deployfold.measure.runners import (
    EagerRunner,
    OnnxRuntimeRunner,
    ProgramRunner,
    TorchScriptRunner,
)
from deployfold.measure.tensorrt_runner import TensorRTRunner
from deployfold.report.model import Accuracy, Report, Row, Status
from deployfold.reporting import make_report, save_report
from deployfold.rows import Draft, interrupted_rows, measure_rows, unmeasured_rows
from deployfold.spec import BuildSpec, InputSpec, Precision

Inputs = tuple[torch.Tensor, ...]


@dataclass
class Run:
    """What a build has made so far; the report is written from it, however the build ends."""

    spec: BuildSpec
    emit: Emit
    directory: Path
    stage: str = "load"
    loaded: LoadedModel | None = None
    inputs: InputSpec | None = None
    folded: FoldResult | None = None
    drafts: list[Draft] = field(default_factory=list)
    rows: tuple[Row, ...] = ()
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The model's name, which all artifacts begin with."""
        return self.loaded.name if self.loaded else ""

    @contextmanager
    def running(self, stage: str, detail: str) -> Iterator[Callable[[str], None]]:
        """Announce a stage; the yielded function takes the sentence that says what came of it."""
        self.stage = stage
        self.emit(StageStarted(stage, detail))
        start = time.perf_counter()
        said: list[str] = []
        yield said.append
        self.emit(StageFinished(stage, "; ".join(said), time.perf_counter() - start))

    def note(self, sentences: Sequence[str], *, level: str = "info") -> None:
        """Keep sentences for the report, and show them now."""
        for sentence in sentences:
            self.notes.append(sentence)
            self.emit(Note(sentence, level))

    def save(self, status: Status) -> Report | None:
        """Write the report of everything finished so far; None if nothing was loaded yet."""
        if self.loaded is None or self.inputs is None:
            return None
        reason = f"not measured: the build stopped at {self.stage}"
        rows = self.rows or unmeasured_rows(self.drafts, reason)
        report = make_report(
            self.spec, self.loaded, self.inputs, self.folded, rows, self.notes, status
        )
        save_report(report, self.directory)
        return report


def load_stage(run: Run) -> Inputs:
    spec = run.spec
    with run.running("load", spec.source) as say:
        loaded = load_model(
            spec.source, arch=spec.arch, allow_globals=spec.allow_globals, trust=spec.trust
        )
        run.inputs = resolve_inputs(loaded, spec.inputs, spec.dynamic_batch)
        run.loaded = loaded
        run.directory = spec.output or Path("build") / loaded.name
        inputs = make_inputs(run.inputs, seed=spec.seed)
        say(f"{loaded.arch or type(loaded.module).__name__}, {run.inputs}")
    run.note(loaded.notes)
    return inputs


def fold_stage(run: Run, inputs: Inputs, path: Path | None) -> None:
    loaded = run.loaded
    assert loaded is not None
    with run.running("fold", "tracing, folding and verifying") as say:
        result = fold(loaded.module, inputs, reparam=run.spec.reparam)
        run.folded = result
        gone = result.batchnorms_before - result.batchnorms_after
        fewer = result.parameters_before - result.parameters_after
        exact = result.verification.float64_relative
        proof = "" if exact is None else f", same function to {exact:.0e} in float64"
        say(
            f"{gone} of {result.batchnorms_before} BatchNorm layers folded, "
            f"{fewer:,} parameters fewer{proof}"
        )
        size = None if path is None else _save_module(result.model, path)
    run.note(result.notes)
    run.drafts += [
        Draft(
            "pytorch",
            "PyTorch (original)",
            EagerRunner(loaded.module),
            parameters=result.parameters_before,
            batchnorms=result.batchnorms_before,
            bytes=loaded.bytes,
        ),
        Draft(
            "folded",
            "PyTorch, folded",
            EagerRunner(result.model, title="The folded model"),
            path,
            result.parameters_after,
            result.batchnorms_after,
            size,
        ),
    ]


def _save_module(module: torch.nn.Module, path: Path) -> int:
    """Pickle the module, or write its TorchScript; returns the bytes."""
    with atomic_path(path) as temporary:
        try:
            if isinstance(module, torch.jit.ScriptModule):
                torch.jit.save(module, temporary)
            else:
                torch.save(module, temporary)
        except (AttributeError, TypeError, ImportError) as error:
            raise ExportError(
                f"The folded model cannot be pickled: {error}",
                hint="Define its classes at the top level of an importable module.",
            ) from error
        return temporary.stat().st_size


def export_stage(run: Run, inputs: Inputs) -> Path:
    loaded, spec, folded = run.loaded, run.inputs, run.folded
    assert loaded is not None
    assert spec is not None
    assert folded is not None
    base = Draft("", "", parameters=folded.parameters_after, batchnorms=folded.batchnorms_after)
    module = folded.model
    program, program_error = None, None
    with run.running("export", "TorchScript") as say:
        path = run.directory / f"{run.name}.ts.pt"
        draft = replace(base, name="torchscript", title="TorchScript")
        try:
            script = export_torchscript(module, inputs, path, script=run.spec.script, spec=spec)
            draft = replace(
                draft, path=path, runner=TorchScriptRunner(path), bytes=script.bytes,
                notes=script.notes,
            )  # fmt: skip
            say("TorchScript")
        except ExportError as error:
            draft = replace(draft, not_measured=f"not exported: {error.message}")
        run.drafts.append(draft)

        run.emit(StageStarted("export", "torch.export"))
        path = run.directory / f"{run.name}.pt2"
        draft = replace(base, name="program", title="torch.export (.pt2)")
        try:
            program, exported = export_program(module, inputs, path, spec=spec)
            draft = replace(draft, path=path, runner=ProgramRunner(path), bytes=exported.bytes)
            say(".pt2")
        except ExportError as error:
            program_error = error.message
            draft = replace(draft, not_measured=f"not exported: {error.message}")
        run.drafts.append(draft)

        run.emit(StageStarted("export", "ONNX"))
        path = run.directory / f"{run.name}.onnx"
        onnx = export_onnx(
            module,
            inputs,
            path,
            spec=spec,
            program=program,
            program_error=program_error,
            metadata=_metadata(loaded, folded),
        )
        say(f"ONNX (opset {onnx.opset}, {onnx.exporter} exporter)")
        notes = list(onnx.notes)
        if onnx.fallback_reason:
            notes.append(f"TorchScript-based ONNX exporter: {onnx.fallback_reason}")
        run.drafts.append(
            replace(
                base,
                name="onnxruntime",
                title="ONNX Runtime",
                path=path,
                runner=OnnxRuntimeRunner(path, run.spec.threads or default_threads()),
                batchnorms=onnx.batchnorm_nodes,
                bytes=onnx.bytes,
                notes=tuple(notes),
            )
        )
    return path


def _metadata(loaded: LoadedModel, folded: FoldResult) -> dict[str, str]:
    metadata = {
        "deployfold.version": __version__,
        "deployfold.folded": f"{folded.batchnorms_before - folded.batchnorms_after} of "
        f"{folded.batchnorms_before} BatchNorm layers",
    }
    if loaded.sha256:
        metadata["deployfold.source_sha256"] = loaded.sha256
    return metadata


def lower_stage(run: Run, inputs: Inputs, onnx: Path) -> dict[Precision, Path]:
    """One ONNX for each precision; fp32 is the one that was exported."""
    assert run.inputs is not None
    lowered = {Precision.FP32: onnx}
    names = run.inputs.names
    feeds = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    for precision in run.spec.precisions:
        if precision is not Precision.FP16:
            continue
        with run.running("lower", "fp16: looking for values beyond its range") as say:
            path = onnx.with_name(f"{onnx.stem}.fp16.onnx")
            artifact = lower_fp16(onnx, path, inputs=[feeds], float_io=run.spec.float_io)
            lowered[precision] = path
            kept = f", {len(artifact.kept_fp32)} nodes kept in fp32" if artifact.kept_fp32 else ""
            say(f"fp16, {artifact.sqnr_db:.1f} dB against fp32{kept}")
        notes = (
            *artifact.notes,
            *(f"{n.name} stays in fp32: {n.reason}" for n in artifact.kept_fp32),
        )
        base = next(draft for draft in run.drafts if draft.name == "onnxruntime")
        run.drafts.append(
            replace(
                base,
                name="onnxruntime-fp16",
                title="ONNX Runtime, fp16",
                path=path,
                # ONNX Runtime would run it in fp32 on a CPU, and hide what fp16 rounds away.
                runner=None,
                bytes=artifact.bytes,
                accuracy=Accuracy(max_abs_diff=artifact.max_abs_diff, sqnr_db=artifact.sqnr_db),
                not_measured="ONNX Runtime has no fp16 kernels for CPUs: it casts to fp32",
                notes=("accuracy against the fp32 ONNX, with every fp16 tensor rounded", *notes),
            )
        )
        run.note(notes, level="warning")
    return lowered


def compile_stage(run: Run, lowered: dict[Precision, Path]) -> None:
    assert run.inputs is not None
    machine = detect()
    profiles = (profile_from_inputs(run.inputs),)
    wanted = run.spec.precisions or (Precision.FP32,)
    for precision in wanted:
        entries = plan_engines(run.spec.targets, precision, machine)
        for entry in entries:
            if isinstance(entry, NoEngine):
                run.drafts.append(_no_engine(run, entry, precision))
                run.note([entry.reason], level="warning")
                continue
            request = replace(entry, profiles=profiles, workspace_mib=run.spec.workspace_mib)
            _compile_one(run, request, lowered[precision], several=len(entries) > 1)


def _compile_one(run: Run, request: EngineRequest, onnx: Path, *, several: bool) -> None:
    title = LIBRARY_TITLES[request.library]
    where = ", ".join(f"sm_{major}{minor}" for major, minor in request.compute_capabilities)
    precision = request.precision.value
    with run.running("compile", f"{title} {precision} for {where}") as say:
        stem = onnx.name.removesuffix(".onnx")
        path = onnx.with_name(f"{stem}.{request.label}.engine")
        engine = compile_engine(onnx, path, request, emit=run.emit, timeout=run.spec.timeout)
        counts = engine.layer_counts
        say(f"{title} {engine.library_version} {precision} engine for {where}")
        run.note(engine.notes)
    name = f"tensorrt-{precision}" + (f"-{request.label}" if several else "")
    run.drafts.append(
        Draft(
            name,
            f"{title} {precision}" + (f", {request.label}" if several else ""),
            TensorRTRunner(path),
            path,
            parameters=run.folded.parameters_after if run.folded else None,
            batchnorms=0 if run.folded and not run.folded.batchnorms_after else None,
            bytes=engine.bytes,
            notes=(
                f"{counts.fp16} of {counts.compute} compute layers in fp16"
                if precision == "fp16"
                else f"{counts.compute} compute layers",
            ),
        )
    )


def _no_engine(run: Run, entry: NoEngine, precision: Precision) -> Draft:
    name = f"tensorrt-{precision.value}-{entry.target}"
    return Draft(name, f"TensorRT {precision.value}, {entry.target}", not_measured=entry.reason)


def measure_stage(run: Run, inputs: Inputs) -> None:
    with run.running("measure", "loading") as say:
        try:
            run.rows = measure_rows(run.drafts, inputs, run.spec, emit=run.emit)
        except MeasurementInterrupted as stop:
            run.rows = interrupted_rows(run.drafts, stop)
            raise
        measured = sum(row.latency is not None for row in run.rows)
        say(f"{measured} of {len(run.rows)} rows measured")
