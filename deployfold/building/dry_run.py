"""Plans a build without loading or writing anything, for ``deployfold build --dry-run``.

The plan lists the artifacts with their compilers and GPUs, and the files and packages that are
missing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deployfold.compiling.planning import engines_of
from deployfold.compiling.records import NoEngine
from deployfold.config import row_names
from deployfold.config.build_spec import BuildSpec
from deployfold.config.flag_values import ZOOS, is_function
from deployfold.config.precision import Precision
from deployfold.config.real_data import RANDOM
from deployfold.exporting import EXPORTERS
from deployfold.exporting.onnx import ONNX
from deployfold.loading.checks import safe_name
from deployfold.loading.formats import stem
from deployfold.runtimes.torch_variants import variants_on
from deployfold.targets.compute_capability import sm_names
from deployfold.targets.libraries import LIBRARIES
from deployfold.targets.machine import Machine

from .file_names import engine_of, folded_module, onnx_in, torch_tensorrt_in
from .settings import run_settings

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class PlannedRow:
    """One row that the report of a build would have.

    Attributes:
        name: the key of the row, such as ``tensorrt-fp16``.
        file: the name of the artifact; ``None`` for the original model and for missing artifacts.
        made_by: the exporter or compiler, and the GPUs.
        missing: why there will be no artifact; ``None`` if no reason is known.
    """

    name: str
    file: str | None
    made_by: str
    missing: str | None = None


@dataclass(frozen=True)
class BuildPlan:
    """The plan of a build.

    Attributes:
        directory: the directory for the artifacts.
        missing: the files and packages whose absence would stop the build, one sentence each.
        measured: whether the rows would be run and timed on this machine.
    """

    directory: str
    rows: tuple[PlannedRow, ...]
    missing: tuple[str, ...]
    measured: bool

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return asdict(self)


def plan_build(spec: BuildSpec, machine: Machine) -> BuildPlan:
    """Plan the build of ``spec`` on ``machine``.

    Raises:
        UsageError: a target is unknown.
    """
    source = spec.source
    name = safe_name(source.partition(":")[2] if _by_name(source) else stem(Path(source)))
    return BuildPlan(
        directory=str(spec.output or Path("build") / name),
        rows=tuple(_rows(spec, name, machine)),
        missing=tuple(_missing(spec)),
        measured=spec.measure,
    )


def _by_name(source: str) -> bool:
    """Whether a model is ``torchvision:NAME``, ``timm:NAME`` or ``package.module:factory``."""
    return ":" in source and not Path(source).exists()


def _rows(spec: BuildSpec, name: str, machine: Machine) -> Iterator[PlannedRow]:
    given_onnx = spec.is_onnx
    yield PlannedRow(
        row_names.ORIGINAL_ONNX if given_onnx else row_names.PYTORCH, None, "the original model"
    )
    if not given_onnx:
        yield PlannedRow(row_names.FOLDED, folded_module(name), "BatchNorm folding")
    if spec.measure and not given_onnx:
        device = run_settings(spec).device
        for one in variants_on(device, fp16=spec.torch_fp16, compiled=spec.torch_compile):
            yield PlannedRow(
                f"{row_names.FOLDED}-{one.key}", None, f"the folded model, {one.label}"
            )
    for exporter in EXPORTERS:
        wanted = exporter.option is None or getattr(spec, exporter.option)
        if wanted and (exporter is ONNX or not given_onnx):
            yield PlannedRow(exporter.row, exporter.path(Path(), name).name, exporter.label)
    for precision in spec.precisions:
        made_by = f"lowering to {precision.value}"
        if precision.record.calibration != "none" and spec.calibration is not None:
            made_by += f", calibrated on {spec.calibration.source}"
        yield PlannedRow(row_names.lowered_onnx(precision), onnx_in(precision, name), made_by)
    if spec.engine:
        for precision in spec.precisions or (Precision.FP32,):
            yield from _engines(spec, name, precision, machine)


def _engines(
    spec: BuildSpec, name: str, precision: Precision, machine: Machine
) -> Iterator[PlannedRow]:
    onnx = Path(onnx_in(precision, name))
    entries = engines_of(spec, precision, machine)
    for entry in entries:
        if isinstance(entry, NoEngine):
            how = f"deployfold finish on {entry.target}"
            yield PlannedRow(row_names.engine(precision, entry.target), None, how, entry.reason)
            continue
        yield PlannedRow(
            row_names.engine(precision, entry.label if len(entries) > 1 else ""),
            engine_of(onnx, entry.label).name,
            f"{LIBRARIES[entry.library].title} for {sm_names(entry.compute_capabilities)}",
        )
    if spec.torch_tensorrt:
        installed = importlib.util.find_spec("torch_tensorrt") is not None
        yield PlannedRow(
            row_names.torch_tensorrt(precision),
            torch_tensorrt_in(precision, name) if installed else None,
            "torch-tensorrt",
            None if installed else "torch-tensorrt is not installed.",
        )


def _missing(spec: BuildSpec) -> Iterator[str]:
    wanted = [*_PACKAGES]
    if _by_name(spec.source):
        wanted += [one for one in ZOOS if spec.source.startswith(f"{one}:")]
    elif not Path(spec.source).exists():
        yield f"The model {spec.source} does not exist."
    for package in wanted:
        if importlib.util.find_spec(package) is None:
            yield f"{package} is not installed; pip install {package}."
    for data in (spec.calibration, spec.input_data):
        if data is None:
            continue
        paths: Sequence[Path | None] = (Path(data.source), data.labels)
        for path in paths:
            named = path is None or str(path) == RANDOM or is_function(str(path))
            if path is not None and not named and not path.exists():
                yield f"The data {path} does not exist."
