"""What each stage of a build does, between the packages that do the work and the report.

A stage that fails in a way that leaves the others useful costs one row; anything else raises.
"""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import torch

from deployfold.compile import EngineRequest, NoEngine, compile_engine, detect, plan_engines
from deployfold.compile.request import (
    LIBRARY_TITLES,
    OptimizationProfile,
    profile_from_inputs,
)
from deployfold.errors import ExportError
from deployfold.events import Note
from deployfold.files import atomic_path
from deployfold.finish import Wanted, write_finish_kit
from deployfold.fold import fold
from deployfold.fold.compare import run_model
from deployfold.load import load_model, make_inputs, resolve_inputs
from deployfold.lower.calibration import load_calibration
from deployfold.lower.samples import load_samples
from deployfold.measure.results import MeasurementInterrupted
from deployfold.measure.runners import EagerRunner
from deployfold.measure.tensorrt_runner import TensorRTRunner
from deployfold.reporting import REPORT_JSON
from deployfold.rows import Draft, Extras, interrupted_rows, measure_rows
from deployfold.run import Inputs, Run
from deployfold.spec import Precision

FOLD_SAMPLES = 8
"""Real inputs that folding traces and is verified on: each costs it four forward passes."""


def load_stage(run: Run) -> Inputs:
    """Load the model, and make the inputs that every later stage runs on."""
    spec = run.spec
    with run.running("load", spec.source) as say:
        loaded = load_model(
            spec.source, arch=spec.arch, allow_globals=spec.allow_globals, trust=spec.trust
        )
        run.inputs = resolve_inputs(loaded, spec.inputs, spec.dynamic_batch)
        run.loaded = loaded
        run.directory = spec.output or Path("build") / loaded.name
        run.samples, notes = _samples(run, loaded.arch)
        if spec.calibration is not None:
            data = load_calibration(spec.calibration, run.inputs, arch=loaded.arch, seed=spec.seed)
            run.calibration = data
            notes += (*data.notes, *data.skipped)
        say(f"{loaded.arch or type(loaded.module).__name__}, {run.inputs}")
    run.note((*loaded.notes, *dict.fromkeys(notes)))
    return run.samples[0]


def _samples(run: Run, arch: str | None) -> tuple[tuple[Inputs, ...], tuple[str, ...]]:
    """The inputs to run on, and what is to be said of them."""
    spec, inputs = run.spec, run.inputs
    assert inputs is not None
    if spec.input_data is None:
        run.input_data = f"seeded random (seed {spec.seed})"
        return (make_inputs(inputs, seed=spec.seed),), ()
    data = load_samples(spec.input_data, inputs, arch=arch)
    run.input_data, run.labels = data.origin, data.labels
    samples = tuple(
        tuple(torch.from_numpy(feed[name]) for name in inputs.names) for feed in data.feeds
    )
    return samples, data.notes


def fold_stage(run: Run, inputs: Inputs, path: Path | None) -> None:
    """Fold, and write the folded module to ``path`` if that is given."""
    loaded = run.loaded
    assert loaded is not None
    with run.running("fold", "tracing, folding and verifying") as say:
        more = run.samples[1:FOLD_SAMPLES]
        result = fold(loaded.module, inputs, reparam=run.spec.reparam, more_inputs=more)
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
        except (pickle.PicklingError, AttributeError, TypeError, ImportError) as error:
            raise ExportError(
                f"The folded model cannot be pickled: {error}",
                hint="Define its classes at the top level of an importable module.",
            ) from error
        return temporary.stat().st_size


def compile_stage(run: Run, lowered: dict[Precision, Path]) -> None:
    """One engine, or one row that says why there is none, for each precision and target."""
    assert run.inputs is not None
    machine = detect()
    profiles = (profile_from_inputs(run.inputs),)
    # The fp32 ONNX is always there; its engine is built where no lower precision was asked for.
    wanted = tuple(lowered)[1:] or (Precision.FP32,)
    for precision in wanted:
        entries = plan_engines(run.spec.targets, precision, machine)
        for entry in entries:
            if isinstance(entry, NoEngine):
                _leave(run, entry, precision, profiles)
                run.emit(Note(entry.reason, "warning"))  # the report has it in the row
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


def _leave(
    run: Run, entry: NoEngine, precision: Precision, profiles: tuple[OptimizationProfile, ...]
) -> None:
    """A row that says why there is no engine, and what ``deployfold finish`` is to build for it."""
    name, title = f"tensorrt-{precision.value}-{entry.target}", f"TensorRT {precision.value}"
    title += f", {entry.target}"
    run.drafts.append(Draft(name, title, not_measured=entry.reason))
    workspace = run.spec.workspace_mib
    run.unfinished.append(Wanted(name, title, entry.target, precision, profiles, workspace))


def kit_stage(run: Run, lowered: dict[Precision, Path], inputs: Inputs) -> None:
    """Leave what ``deployfold finish`` needs on the devices that nothing here could build for."""
    if not run.unfinished or run.loaded is None or run.inputs is None:
        return
    write_finish_kit(
        run.directory,
        model_name=run.name,
        onnx_by_precision={one.precision: lowered[one.precision] for one in run.unfinished},
        requests=run.unfinished,
        inputs={name: value.numpy() for name, value in zip(run.inputs.names, inputs, strict=True)},
        outputs=[output.numpy() for output in run_model(run.loaded.module, inputs)],
        report_path=run.directory / REPORT_JSON,
    )
    targets = ", ".join(dict.fromkeys(one.target for one in run.unfinished))
    run.note(
        [f"To build for {targets}: copy this directory there and run deployfold finish on it."]
    )


def measure_stage(run: Run, inputs: Inputs) -> None:
    """Run every row; what was measured before Ctrl-C stays in ``run.rows``."""
    shapes, spec = run.inputs, run.spec
    assert shapes is not None
    extras = Extras(
        batches=spec.batches,
        make_inputs=lambda batch: make_inputs(shapes.with_batch(batch), seed=spec.seed),
        feeds=run.samples if spec.input_data else (),
        labels=run.labels,
        cold_start=spec.cold_start,
    )
    with run.running("measure", "loading") as say:
        try:
            run.rows = measure_rows(run.drafts, inputs, spec, extras=extras, emit=run.emit)
        except MeasurementInterrupted as stop:
            run.rows = interrupted_rows(run.drafts, stop)
            raise
        measured = sum(row.latency is not None for row in run.rows)
        say(f"{measured} of {len(run.rows)} rows measured")
