"""Times quantised models on the GPU in this machine, for ``--tune``."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from deployfold.compiling import EngineRequest, compile_engine, detect, plan_engines
from deployfold.compiling.records import optimization_profiles
from deployfold.config.build_spec import BuildSpec
from deployfold.config.precision import Precision
from deployfold.errors import MeasureError, UsageError
from deployfold.events import ignore
from deployfold.lowering.request import Tuning
from deployfold.measuring.latency import measure
from deployfold.reporting.row import Speedup
from deployfold.runtimes import TENSORRT
from deployfold.targets.libraries import LIBRARIES
from deployfold.util.files import sha256, write_text
from deployfold.util.onnx_files import onnx_files

from .journal import Journal
from .load import Loaded
from .settings import run_settings

_SECONDS = 10.0
"""Time for one comparison, without the two engine builds."""


def check_tuning(spec: BuildSpec) -> None:
    """Refuse ``--tune`` where no engine of the build runs on this machine.

    Raises:
        UsageError: there is no GPU, or none that a target of the build names.
    """
    if spec.qdq.tune:
        for precision in _tuned(spec):
            _request(spec, precision)


def tuning(
    precision: Precision, loaded: Loaded, spec: BuildSpec, journal: Journal, log: Path
) -> Tuning | None:
    """How to time models in ``precision``; ``None`` where the build does not tune it.

    Args:
        log: the file that keeps the results, so that an interrupted build goes on where it was.

    Raises:
        UsageError: as :func:`check_tuning`.
    """
    if not spec.qdq.tune or precision not in _tuned(spec):
        return None
    request, gpu = _request(spec, precision)
    request = replace(
        request, profiles=optimization_profiles(loaded.inputs), workspace_mib=spec.workspace_mib,
        options=spec.options,
    )  # fmt: skip
    version = detect().version(request.library)
    where = f"{gpu} with {LIBRARIES[request.library].title} {version}"

    def compare(first: Path, second: Path) -> Speedup:
        key = f"{where} {request.options}: {_digest(first)} {_digest(second)}"
        known = _read(log)
        if key not in known:
            known[key] = _compare(first, second, request, loaded, spec, journal)
            write_text(log, json.dumps({k: v.model_dump() for k, v in known.items()}, indent=2))
        return known[key]

    return Tuning(where, compare)


def _tuned(spec: BuildSpec) -> list[Precision]:
    """The precisions of a build whose Q/DQ nodes round activations."""
    return [
        one for one in spec.precisions if one.record.family == "qdq" and not one.record.weights_only
    ]


def _request(spec: BuildSpec, precision: Precision) -> tuple[EngineRequest, str]:
    """The first engine of the build that runs on the GPU in this machine, and that GPU's name."""
    machine = detect()
    for entry in plan_engines(spec.targets, precision, machine):
        if isinstance(entry, EngineRequest) and entry.verify and machine.gpu is not None:
            return entry, machine.gpu.name
    raise UsageError(
        f"--tune times {precision.value} engines, and this machine runs no engine of this build.",
        hint="Build on the machine with the GPU, or leave --tune out.",
    )


def _compare(
    first: Path,
    second: Path,
    request: EngineRequest,
    loaded: Loaded,
    spec: BuildSpec,
    journal: Journal,
) -> Speedup:
    """Build and time the engines of two ONNX files; the speed-up of the first.

    Raises:
        CompileError: an engine cannot be built.
        MeasureError: an engine cannot be timed.
    """
    settings = run_settings(spec)
    engines = {}
    for onnx in (second, first):
        path = onnx.with_suffix(TENSORRT.suffix)
        compile_engine(onnx, path, request, emit=ignore, timeout=spec.timeout)
        engines[onnx.stem] = TENSORRT.open(path, settings)
    found = measure(
        engines, loaded.example, threads=settings.threads, max_seconds=_SECONDS, emit=journal.emit
    )
    row = found.rows[1]
    if row.latency is None or row.latency.speedup is None:
        raise MeasureError(
            f"--tune could not time the engine: {row.not_measured or found.rows[0].not_measured}.",
            hint="Leave --tune out.",
        )
    return row.latency.speedup


def _digest(onnx: Path) -> str:
    return sha256(*onnx_files(onnx))


def _read(log: Path) -> dict[str, Speedup]:
    """The results of an earlier build; none where the file is missing or damaged."""
    with suppress(OSError, ValueError, AttributeError):
        found = json.loads(log.read_text(encoding="utf-8"))
        return {key: Speedup.model_validate(value) for key, value in found.items()}
    return {}
