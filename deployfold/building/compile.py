"""The stage of a build that compiles engines, and leaves a kit for those it cannot compile here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deployfold.building.artifact import Artifact
from deployfold.building.state import Run
from deployfold.compiling import EngineRequest, NoEngine, compile_engine, detect, plan_engines
from deployfold.compiling.request import LIBRARY_TITLES, optimization_profiles
from deployfold.compiling.tensorrt.configure import option_refusal
from deployfold.compiling.torch_tensorrt.build import compile_torch_tensorrt
from deployfold.config.precision import Precision
from deployfold.config.shapes import OptimizationProfile
from deployfold.events import Note
from deployfold.finish import Wanted, write_finish_kit
from deployfold.reporting.model import REPORT_JSON
from deployfold.runtimes.tensorrt import TensorRTRunner
from deployfold.runtimes.tensorrt_library import RunOptions
from deployfold.runtimes.torch_tensorrt import PROGRAM_SUFFIX, TorchTensorRTRunner


def compile_stage(run: Run, lowered: dict[Precision, Path]) -> None:
    """One engine, or one row that says why there is none, for each precision and target."""
    assert run.inputs is not None
    run.stage = "compile"  # finding the GPU can take seconds, and can be interrupted
    machine = detect()
    profiles = optimization_profiles(run.inputs)
    # The fp32 ONNX is always there; its engine is built where no lower precision was asked for.
    wanted = tuple(lowered)[1:] or (Precision.FP32,)
    for precision in wanted:
        entries = plan_engines(run.spec.targets, precision, machine)
        for entry in entries:
            if isinstance(entry, NoEngine):
                _leave(run, entry, precision, profiles)
                continue
            request = replace(
                entry,
                profiles=profiles,
                workspace_mib=run.spec.workspace_mib,
                options=run.spec.options,
            )
            refusal = option_refusal(request)
            if refusal is not None:
                for target in request.targets:
                    _leave(run, NoEngine(target, refusal), precision, profiles)
                continue
            _compile_one(run, request, lowered[precision], several=len(entries) > 1)
        if run.spec.torch_tensorrt:
            _torch_tensorrt(run, precision)


def _compile_one(run: Run, request: EngineRequest, onnx: Path, *, several: bool) -> None:
    title = LIBRARY_TITLES[request.library]
    where = ", ".join(f"sm_{major}{minor}" for major, minor in request.compute_capabilities)
    precision = request.precision.value
    with run.running("compile", f"{title} {precision} for {where}") as say:
        stem = onnx.name.removesuffix(".onnx")
        path = onnx.with_name(f"{stem}.{request.label}.engine")
        engine = compile_engine(onnx, path, request, emit=run.emit, timeout=run.spec.timeout)
        run.worker_peak = engine.peak_bytes or 0
        counts = engine.layer_counts
        say(f"{title} {engine.library_version} {precision} engine for {where}")
        run.note(engine.notes)
    name = f"tensorrt-{precision}" + (f"-{request.label}" if several else "")
    run.artifacts.append(
        Artifact(
            name,
            f"{title} {precision}" + (f", {request.label}" if several else ""),
            TensorRTRunner(
                path,
                RunOptions(
                    cuda_graph=run.spec.cuda_graph,
                    # The lean runtime that such an engine carries is the one just put in.
                    allow_host_code=request.options.version_compatible,
                ),
            ),
            path,
            parameters=run.folded.parameters_after if run.folded else None,
            batchnorms=0 if run.folded and not run.folded.batchnorms_after else None,
            bytes=engine.bytes,
            notes=(
                f"{getattr(counts, precision)} of {counts.compute} compute layers in {precision}"
                if request.precision is not Precision.FP32
                else f"{counts.compute} compute layers",
            ),
        )
    )


def _torch_tensorrt(run: Run, precision: Precision) -> None:
    """A row for the program with engines inside, or for the reason why there is none."""
    assert run.inputs is not None
    draft = Artifact(f"torch-tensorrt-{precision.value}", f"torch-tensorrt {precision.value}")
    program = next(draft for draft in run.artifacts if draft.name == "program").path
    if program is None:
        reason = "torch-tensorrt compiles the .pt2, which could not be exported."
        run.artifacts.append(replace(draft, not_measured=reason))
        return
    path = run.directory / f"{run.name}.{precision.value}{PROGRAM_SUFFIX}"
    with run.running("compile", draft.title) as say:
        made = compile_torch_tensorrt(
            program,
            path,
            precision=precision,
            inputs=run.inputs,
            timeout=run.spec.timeout,
            emit=run.emit,
        )
        if isinstance(made, NoEngine):
            run.artifacts.append(replace(draft, not_measured=made.reason))
            run.emit(Note(made.reason, "warning"))
            return
        run.worker_peak = made.peak_bytes or 0
        say(f"torch-tensorrt {made.library_version}, {made.engines} engines")
        run.note(made.notes)
    run.artifacts.append(
        replace(
            draft,
            runner=TorchTensorRTRunner(path),
            path=path,
            parameters=run.folded.parameters_after if run.folded else None,
            bytes=made.bytes,
            notes=(f"{made.engines} engines, {made.torch_parts} parts run by PyTorch",),
        )
    )


def _leave(
    run: Run, entry: NoEngine, precision: Precision, profiles: tuple[OptimizationProfile, ...]
) -> None:
    """A row that says why there is no engine, and what ``deployfold finish`` is to build for it."""
    name, title = f"tensorrt-{precision.value}-{entry.target}", f"TensorRT {precision.value}"
    title += f", {entry.target}"
    run.artifacts.append(Artifact(name, title, not_measured=entry.reason))
    run.emit(Note(entry.reason, "warning"))  # the report has it in the row
    if not entry.elsewhere:
        return
    spec = run.spec
    run.unfinished.append(
        Wanted(name, title, entry.target, precision, profiles, spec.workspace_mib, spec.options)
    )


def kit_stage(run: Run, lowered: dict[Precision, Path]) -> None:
    """Leave what ``deployfold finish`` needs on the devices that nothing here could build for."""
    if not run.unfinished or run.inputs is None:
        return
    write_finish_kit(
        run.directory,
        model_name=run.name,
        onnx_by_precision={one.precision: lowered[one.precision] for one in run.unfinished},
        requests=run.unfinished,
        inputs=run.inputs.names,
        report_path=run.directory / REPORT_JSON,
    )
    targets = ", ".join(dict.fromkeys(one.target for one in run.unfinished))
    run.note(
        [f"To build for {targets}: copy this directory there and run deployfold finish on it."]
    )
