"""The stage that compiles engines, and leaves a kit for those that cannot be compiled here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from deployfold.compiling.planning import engines_of
from deployfold.compiling.records import EngineRequest, NoEngine, optimization_profiles
from deployfold.compiling.tensorrt.compile import compile_engine
from deployfold.compiling.tensorrt.onnx_checks import check_finite
from deployfold.config import row_names
from deployfold.config.build_spec import BuildSpec
from deployfold.config.precision import Precision
from deployfold.errors import CompileError
from deployfold.finish.kit import Wanted, copy_note, write_finish_kit
from deployfold.reporting.layers import EngineLayers
from deployfold.reporting.report import REPORT_JSON
from deployfold.runtimes import TENSORRT, TORCH_TENSORRT
from deployfold.targets.compute_capability import sm_names
from deployfold.targets.libraries import LIBRARIES
from deployfold.targets.machine import detect

from .artifact import Artifact
from .file_names import engine_of, torch_tensorrt_in
from .journal import Journal
from .load import Loaded
from .lower import Lowered
from .results import Exported
from .settings import run_settings
from .tail import refusal


@dataclass(frozen=True, eq=False)
class Engines:
    """Engines, and the reason for each one that is missing.

    Attributes:
        wanted: the missing engines that ``deployfold finish`` can build on their device.
    """

    artifacts: tuple[Artifact, ...] = ()
    wanted: tuple[Wanted, ...] = ()


def compile(
    lowered: Lowered, exported: Exported, loaded: Loaded, spec: BuildSpec, journal: Journal
) -> Engines:
    """Compile one engine for each precision and target; a missing engine becomes a row without one.

    Raises:
        CompileError: a compiler failed.
    """
    if not spec.engine:
        return Engines()
    journal.stage = "compile"  # finding the GPU can take seconds, and can be interrupted
    machine = detect()
    profiles = optimization_profiles(loaded.inputs)
    artifacts: list[Artifact] = []
    wanted: list[Wanted] = []
    # The fp32 ONNX is always exported. Its engine is built only without a lower precision.
    for precision in tuple(lowered.onnx)[1:] or (Precision.FP32,):
        onnx = lowered.onnx[precision]
        plan = engines_of(spec, precision, machine, profiles)
        if any(isinstance(one, EngineRequest) for one in plan):
            # Not in the workers: each would import onnx, onnx-ir and sympy for the check.
            # Exporting and lowering have checked the file against the standard.
            journal.note(check_finite(onnx.file))
        for request in plan:
            if isinstance(request, EngineRequest):
                artifacts.append(_engine(onnx, request, spec, journal, several=len(plan) > 1))
                continue
            title = row_names.engine_title(LIBRARIES["tensorrt"].title, precision, request.target)
            missing = Artifact(row_names.engine(precision, request.target), title)
            artifacts.append(journal.keep(replace(missing, not_measured=request.reason)))
            journal.warn(request.reason)
            if request.elsewhere:
                wanted.append(
                    Wanted(
                        missing.name, title, request.target, precision, profiles,
                        spec.workspace_mib, spec.options,
                    )
                )  # fmt: skip
        if spec.torch_tensorrt:
            program = exported.program
            artifacts.append(_torch_tensorrt(program, onnx, precision, loaded, spec, journal))
    return Engines(tuple(artifacts), tuple(wanted))


def _engine(
    onnx: Artifact, request: EngineRequest, spec: BuildSpec, journal: Journal, *, several: bool
) -> Artifact:
    """Compile one engine with TensorRT or TensorRT-RTX."""
    title = LIBRARIES[request.library].title
    where = sm_names(request.compute_capabilities)
    precision = request.precision.value
    source = onnx.file
    with journal.running("compile", f"{title} {precision} for {where}") as stage:
        path = engine_of(source, request.label)
        try:
            engine = compile_engine(
                source, path, request, emit=journal.emit, timeout=spec.timeout, checked=True
            )
        except CompileError as error:
            why = refusal(source) if request.library == "tensorrt_rtx" else None
            if why is None:
                raise
            words = f"{title}'s own words are in {path.name}.log."
            raise CompileError(why.message, hint=f"{why.hint} {words}") from error
        stage.child_peak = engine.peak_bytes or 0
        counts = engine.layer_counts
        stage.result(f"{title} {engine.library_version} {precision} engine for {where}")
        journal.note(engine.notes)
    label = request.label if several else ""
    layers = f"{counts.compute} compute layers"
    if request.precision is not Precision.FP32:
        layers = f"{counts.of(request.precision)} of {layers} in {precision}"
    built = EngineLayers.of(engine.listing)
    # The engine is trusted: this build has just put the lean runtime into it.
    settings = run_settings(spec)
    return journal.keep(
        Artifact(
            name=row_names.engine(request.precision, label),
            title=row_names.engine_title(title, request.precision, label),
            runner=TENSORRT.open(path, settings),
            path=path,
            parameters=onnx.parameters,
            batchnorms=None if onnx.batchnorms else 0,
            bytes=engine.bytes,
            notes=(layers, *([built.sentence(precision)] if built and built.quantised else [])),
            engine_layers=built,
        )
    )


def _torch_tensorrt(
    program: Artifact,
    onnx: Artifact,
    precision: Precision,
    loaded: Loaded,
    spec: BuildSpec,
    journal: Journal,
) -> Artifact:
    """Compile the ``.pt2`` into a program with engines inside, or report why that failed."""
    name = precision.value
    artifact = Artifact(row_names.torch_tensorrt(precision), f"torch-tensorrt {name}")
    if program.path is None:
        reason = "torch-tensorrt compiles the .pt2, which could not be exported."
        return journal.keep(replace(artifact, not_measured=reason))
    from deployfold.compiling.torch_tensorrt.compile import compile_torch_tensorrt

    path = program.path.with_name(torch_tensorrt_in(precision, loaded.name))
    with journal.running("compile", artifact.title) as stage:
        made = compile_torch_tensorrt(
            program.path,
            path,
            precision=precision,
            inputs=loaded.inputs,
            timeout=spec.timeout,
            emit=journal.emit,
        )
        if isinstance(made, NoEngine):
            journal.warn(made.reason)
            return journal.keep(replace(artifact, not_measured=made.reason))
        stage.child_peak = made.peak_bytes or 0
        stage.result(f"torch-tensorrt {made.library_version}, {made.engines} engines")
    return journal.keep(
        replace(
            artifact,
            runner=TORCH_TENSORRT.open(path, run_settings(spec)),
            path=path,
            parameters=onnx.parameters,
            bytes=made.bytes,
            notes=(f"{made.engines} engines, {made.torch_parts} parts run by PyTorch",),
        )
    )


def write_kit(
    engines: Engines, lowered: Lowered, loaded: Loaded, directory: Path, journal: Journal
) -> None:
    """Write ``finish.json`` for the devices whose engines could not be built here.

    Raises:
        CompileError, UsageError: as :func:`~deployfold.finish.kit.write_finish_kit`.
    """
    if not engines.wanted:
        return
    write_finish_kit(
        directory,
        model_name=loaded.name,
        onnx_by_precision={
            one.precision: lowered.onnx[one.precision].file for one in engines.wanted
        },
        requests=engines.wanted,
        inputs=loaded.inputs.names,
        report_path=directory / REPORT_JSON,
    )
    journal.note([copy_note([one.target for one in engines.wanted])])
