"""Times quantised models on the GPU in this machine, for ``--tune``."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from deployfold.compiling.planning import engines_of
from deployfold.compiling.records import EngineRequest, optimization_profiles
from deployfold.compiling.tensorrt.compile import compile_engine
from deployfold.config.build_spec import BuildSpec
from deployfold.config.optimization_profiles import OptimizationProfile
from deployfold.config.precision import Precision
from deployfold.errors import MeasureError, UsageError
from deployfold.events import ignore
from deployfold.lowering.request import Tuning
from deployfold.measuring.latency import measure
from deployfold.reporting.row import Speedup
from deployfold.runtimes import TENSORRT
from deployfold.targets.libraries import LIBRARIES
from deployfold.targets.machine import detect
from deployfold.util.files import write_text
from deployfold.util.onnx_files import onnx_sha256

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
    for precision in spec.precisions if spec.qdq.tune else ():
        if precision.record.quantises_activations:
            _request(spec, precision)


def tuning(
    precision: Precision, source: Path, loaded: Loaded, spec: BuildSpec, journal: Journal
) -> Tuning | None:
    """How to time models in ``precision``; ``None`` where the build does not tune it.

    The results stay in ``NAME.PRECISION.tuning.json`` beside the fp32 ONNX ``source``, so that an
    interrupted build goes on where it was.

    Raises:
        UsageError: as :func:`check_tuning`.
    """
    if not spec.qdq.tune or not precision.record.quantises_activations:
        return None
    request, where = _request(spec, precision, profiles=optimization_profiles(loaded.inputs))
    log = source.with_name(f"{source.stem}.{precision.value}.tuning.json")

    def compare(first: Path, second: Path) -> Speedup:
        digests = onnx_sha256(first), onnx_sha256(second)
        key = f"{where} {request.options}: {' '.join(digests)}"
        known = _read(log)
        if key not in known:
            with_pairs, without = (
                _engine(onnx, digest, request, spec)
                for onnx, digest in zip((first, second), digests, strict=True)
            )
            known[key] = _compare(with_pairs, without, loaded, spec, journal)
            write_text(log, json.dumps({k: v.model_dump() for k, v in known.items()}, indent=2))
        return known[key]

    return Tuning(where, compare)


def _request(
    spec: BuildSpec, precision: Precision, *, profiles: tuple[OptimizationProfile, ...] = ()
) -> tuple[EngineRequest, str]:
    """The first engine of the build that this machine runs, and the GPU and the library."""
    machine = detect()
    for entry in engines_of(spec, precision, machine, profiles):
        if isinstance(entry, EngineRequest) and entry.verify and machine.gpu is not None:
            library = f"{LIBRARIES[entry.library].title} {machine.version(entry.library)}"
            return entry, f"{machine.gpu.name} with {library}"
    raise UsageError(
        f"--tune times {precision.value} engines, and this machine runs no engine of this build.",
        hint="Build on the machine with the GPU, or leave --tune out.",
    )


def _engine(onnx: Path, digest: str, request: EngineRequest, spec: BuildSpec) -> Path:
    """The engine of an ONNX, which lies beside it; one with the same content is built once.

    Raises:
        CompileError: the engine cannot be built.
    """
    path = onnx.with_name(f"{digest}{TENSORRT.suffix}")
    if not path.exists():
        compile_engine(onnx, path, request, emit=ignore, timeout=spec.timeout)
    return path


def _compare(
    first: Path, second: Path, loaded: Loaded, spec: BuildSpec, journal: Journal
) -> Speedup:
    """Time two engines side by side; the speed-up of the first.

    Raises:
        MeasureError: an engine cannot be timed.
    """
    settings = run_settings(spec)
    found = measure(
        {"without": TENSORRT.open(second, settings), "with": TENSORRT.open(first, settings)},
        loaded.example, threads=settings.threads, max_seconds=_SECONDS, emit=journal.emit,
    )  # fmt: skip
    row = found.rows[1]
    if row.latency is None or row.latency.speedup is None:
        raise MeasureError(
            f"--tune could not time the engine: {row.not_measured or found.rows[0].not_measured}.",
            hint="Leave --tune out.",
        )
    return row.latency.speedup


def _read(log: Path) -> dict[str, Speedup]:
    """The results of an earlier build; none where the file is missing or damaged."""
    with suppress(OSError, ValueError, AttributeError):
        found = json.loads(log.read_text(encoding="utf-8"))
        return {key: Speedup.model_validate(value) for key, value in found.items()}
    return {}
