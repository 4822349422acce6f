"""Measuring artifacts that exist already, side by side, on the machine at hand."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from deployfold import __version__
from deployfold.errors import UsageError
from deployfold.events import Emit, StageFinished, StageStarted, ignore
from deployfold.files import sha256
from deployfold.load import load_model, make_inputs
from deployfold.measure.environment import default_threads, describe
from deployfold.measure.protocol import Runner
from deployfold.measure.runners import (
    EagerRunner,
    OnnxRuntimeRunner,
    ProgramRunner,
    TorchScriptRunner,
)
from deployfold.measure.tensorrt_runner import TensorRTRunner, read_sidecar
from deployfold.report.model import Environment, ModelInput, Report, Source, load_report, now
from deployfold.reporting import REPORT_JSON
from deployfold.rows import Draft, measure_rows
from deployfold.spec import BuildSpec, InputSpec, TensorSpec

_SUFFIXES = (".engine", ".onnx", ".ts.pt", ".pt2", ".pt", ".pth")


def bench(
    artifacts: Sequence[Path],
    *,
    inputs: InputSpec | None = None,
    allow_globals: tuple[str, ...] = (),
    trust: bool = False,
    threads: int | None = None,
    max_seconds: float = 30.0,
    emit: Emit = ignore,
) -> Report:
    """Measure artifacts in interleaved rounds; the first one is the baseline.

    Args:
        artifacts: files, or one directory that a build wrote, whose report then gives the inputs
            and the original model, if that is still where it was.
        inputs: shapes; from the report, the engine's sidecar or the ONNX if ``None``.
        allow_globals, trust: for pickled modules, as for loading.

    Raises:
        UsageError: there is nothing to measure, or the input shapes cannot be told.
        LoadError: a pickled module may not be loaded.
    """
    spec = BuildSpec(source=str(artifacts[0]), threads=threads, max_seconds=max_seconds)
    missing = [path for path in artifacts if not path.exists()]
    if missing:
        raise UsageError(f"{missing[0]} does not exist.", hint="deployfold build makes artifacts.")
    previous = None
    paths = list(artifacts)
    if paths[0].is_dir():
        if len(paths) > 1:
            raise UsageError("Give one directory, or files.")
        previous = load_report(paths[0] / REPORT_JSON)
        paths = _artifacts_of(paths[0], previous)
    inputs = inputs or _inputs_of(paths, previous)
    drafts = [
        _draft(path, allow_globals, trust, threads or default_threads(), previous) for path in paths
    ]
    emit(StageStarted("measure", f"{len(drafts)} artifacts"))
    start = time.perf_counter()
    rows = measure_rows(drafts, make_inputs(inputs), spec, emit=emit)
    measured = sum(row.latency is not None for row in rows)
    summary = f"{measured} of {len(rows)} rows measured"
    emit(StageFinished("measure", summary, time.perf_counter() - start))
    return Report(
        deployfold_version=__version__,
        created=now(),
        source=Source(
            path=str(paths[0]),
            kind="artifact",
            sha256=sha256(paths[0]),
            bytes=paths[0].stat().st_size,
        ),
        inputs=tuple(
            ModelInput(name=name, shape=tensor.shape, dtype=tensor.dtype)
            for name, tensor in zip(inputs.names, inputs.tensors, strict=True)
        ),
        input_origin=inputs.origin,
        rows=rows,
        environment=Environment.model_validate(describe(threads or default_threads())),
    )


def _artifacts_of(directory: Path, report: Report) -> list[Path]:
    original = Path(report.source.path)
    built = [directory / row.artifact for row in report.rows if row.artifact is not None]
    there = [path for path in built if path.is_file()]
    return [original, *there] if original.is_file() else there


def _inputs_of(paths: Sequence[Path], report: Report | None) -> InputSpec:
    if report is not None:
        tensors = tuple(TensorSpec(item.shape, item.name, item.dtype) for item in report.inputs)
        return InputSpec(tensors, origin="the report of the build")
    for path in paths:
        if path.suffix == ".onnx":
            return _inputs_of_onnx(path)
        if path.suffix == ".engine":
            profile = read_sidecar(path)["profiles"][0]
            tensors = tuple(TensorSpec(tuple(item["opt"]), item["name"]) for item in profile)
            return InputSpec(tensors, origin=f"the opt shapes of {path.name}")
    raise UsageError(
        "None of these files says what shape its inputs have.",
        hint="Give it with --input, for example --input 1x3x224x224.",
    )


def _inputs_of_onnx(path: Path) -> InputSpec:
    import onnx
    from onnx import helper

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:
        raise UsageError(f"{path} is not an ONNX file.") from error
    weights = {tensor.name for tensor in graph.initializer}
    tensors = []
    for value in graph.input:
        if value.name not in weights:
            kind = value.type.tensor_type
            shape = tuple(dim.dim_value or 1 for dim in kind.shape.dim)
            dtype = str(helper.tensor_dtype_to_np_dtype(kind.elem_type))
            tensors.append(TensorSpec(shape, value.name, dtype))
    return InputSpec(tuple(tensors), origin=path.name)


def _draft(
    path: Path, allow_globals: tuple[str, ...], trust: bool, threads: int, report: Report | None
) -> Draft:
    known = {row.artifact: row for row in report.rows} if report is not None else {}
    row = known.get(path.name)
    runner = _runner(path, allow_globals, trust, threads)
    return Draft(
        name=row.name if row else path.name,
        title=row.title if row else path.name,
        runner=runner,
        path=path,
        parameters=row.parameters if row else None,
        batchnorms=row.batchnorm_layers if row else None,
        bytes=path.stat().st_size,
    )


def _runner(path: Path, allow_globals: tuple[str, ...], trust: bool, threads: int) -> Runner:
    if path.suffix == ".engine":
        return TensorRTRunner(path)
    if path.suffix == ".onnx":
        return OnnxRuntimeRunner(path, threads)
    if path.suffix == ".pt2":
        return ProgramRunner(path)
    if path.name.endswith(".ts.pt"):
        return TorchScriptRunner(path)
    if path.name.endswith(_SUFFIXES):
        return EagerRunner(load_model(str(path), allow_globals=allow_globals, trust=trust).module)
    raise UsageError(
        f"{path} is no artifact that can be measured.", hint=f"Known: {', '.join(_SUFFIXES)}."
    )
