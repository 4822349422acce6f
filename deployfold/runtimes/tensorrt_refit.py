"""The weights of an engine, from an ONNX: for an engine built without them, or with older ones.

Every TensorRT name used here stands, with this signature, in the Python bindings of TensorRT 10.16,
11.4 and TensorRT-RTX 1.7.1. See
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/refitting.html.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from deployfold.compiling.sidecar import Sidecar, read_sidecar, sidecar_path
from deployfold.errors import MeasureError, UsageError
from deployfold.util.files import write_bytes
from deployfold.util.onnx_files import onnx_sha256

from .cuda import Cuda
from .failures import as_measure_error
from .tensorrt_file import OpenEngine, open_engine, whole_sidecar

_NAMED = 3
"""Missing weights that an error names."""


def refit_file(path: Path, onnx: Path, output: Path, cuda: Cuda, *, trust: bool) -> None:
    """Write a copy of an engine with the weights of ``onnx``, and its sidecar.

    Args:
        path: an engine that was built with ``--strip-plan`` or ``--refit``.
        onnx: of the architecture and the precision that the engine was built from.
        output: the new engine, which can be refitted again.
        cuda: the device, which must be one that the engine runs on.
        trust: let a version-compatible engine run the lean runtime that it carries.

    Raises:
        UsageError: the engine cannot be refitted, or ``output`` cannot be written.
        MeasureError: the engine does not load here, or the weights are not its own.
    """
    sidecar = check_refittable(path, onnx)
    opened = open_engine(path, cuda.compute_capability, trust=trust)
    refit(opened, onnx)
    keep(opened, sidecar, onnx, onnx_sha256(onnx), output)


def check_refittable(path: Path, onnx: Path) -> Sidecar:
    """The sidecar of an engine that can take the weights of ``onnx``, which is there.

    Raises:
        UsageError: the engine was built with its weights fixed, or there is no such ONNX.
        MeasureError: the engine is missing or damaged.
    """
    sidecar = whole_sidecar(path)
    if not sidecar.refittable:
        raise UsageError(
            f"{path.name} was built with its weights fixed.",
            hint="Build it again with --refit, or with --strip-plan to leave the weights out.",
        )
    if not onnx.is_file():
        raise UsageError(f"The weights {onnx} do not exist.", hint="Give an ONNX file.")
    return sidecar


def with_weights(path: Path, capability: tuple[int, int], *, trust: bool) -> OpenEngine:
    """Open an engine; one without weights gets those of the ONNX that it was built from.

    The engine with its weights is kept as ``NAME.refitted.engine`` where the folder can be written,
    and later calls open that.

    Raises:
        MeasureError: the engine does not load here, or that ONNX is not beside it.
    """
    sidecar = whole_sidecar(path)
    if not sidecar.weight_stripped:
        return open_engine(path, capability, trust=trust)
    kept = refitted_path(path)
    if kept.is_file() and sidecar_path(kept).is_file():
        found = read_sidecar(kept)
        wanted = (sidecar.sha256, sidecar.onnx_sha256)
        if (found.refitted_from, found.onnx_sha256) == wanted:
            return open_engine(kept, capability, trust=trust)
    onnx = onnx_with_weights(sidecar, path)
    digest = onnx_sha256(onnx)
    if sidecar.onnx_sha256 not in (None, digest):
        raise MeasureError(
            f"{path.name} has no weights, and {onnx.name} is not the file it was built from.",
            hint=f"To take other weights: deployfold refit {path.name} --weights {onnx.name}",
        )
    opened = open_engine(path, capability, trust=trust)
    refit(opened, onnx)
    with suppress(UsageError):  # a folder that cannot be written costs the time of the next refit
        keep(opened, sidecar, onnx, digest, kept)
    return opened


def onnx_with_weights(sidecar: Sidecar, path: Path) -> Path:
    """The ONNX that a weight-stripped engine was built from.

    Raises:
        MeasureError: it is not beside the engine.
    """
    name = sidecar.onnx
    onnx = None if name is None else path.with_name(name)
    if onnx is None or not onnx.is_file():
        raise MeasureError(
            f"{path.name} is weight-stripped, and its ONNX {name} is not beside it.",
            hint=f"Copy it there, or run: deployfold refit {path.name} --weights ONNX",
        )
    return onnx


def refitted_path(path: Path) -> Path:
    """``net.refitted.engine`` for ``net.engine``."""
    return path.with_name(f"{path.name.removesuffix('.engine')}.refitted.engine")


def refit(opened: OpenEngine, onnx: Path) -> None:
    """Give an engine in memory the weights of an ONNX.

    Raises:
        MeasureError: the ONNX lacks weights of the engine, or has others.
    """
    trt, engine = opened.library, opened.engine
    with as_measure_error(f"{onnx.name} cannot be read"):
        refitter = trt.Refitter(engine, opened.log)
        onnx_refitter = trt.OnnxParserRefitter(refitter, opened.log)
        if not onnx_refitter.refit_from_file(str(onnx)):
            errors = [
                onnx_refitter.get_error(index).desc().strip()
                for index in range(onnx_refitter.num_errors)
            ]
            raise _foreign(onnx, (errors or opened.messages or ["TensorRT names no reason"])[-1])
        missing = list(refitter.get_missing_weights())
        if missing:
            more = len(missing) - _NAMED
            names = ", ".join(missing[:_NAMED]) + (f" and {more} more" if more > 0 else "")
            raise _foreign(onnx, f"it lacks {names}")
        if not refitter.refit_cuda_engine():
            raise _foreign(onnx, (opened.messages or ["TensorRT names no reason"])[-1])


def _foreign(onnx: Path, reason: str) -> MeasureError:
    return MeasureError(
        f"The weights of {onnx.name} do not fit the engine: {reason.rstrip('.')}.",
        hint="Take an ONNX of the same architecture, folded and lowered in the same way.",
    )


def keep(opened: OpenEngine, sidecar: Sidecar, onnx: Path, digest: str, output: Path) -> None:
    """Write an engine in memory with its weights, which came from ``onnx``, and its sidecar.

    Raises:
        UsageError: the files cannot be written.
    """
    trt, engine = opened.library, opened.engine
    serialization = engine.create_serialization_config()
    serialization.clear_flag(trt.SerializationFlag.EXCLUDE_WEIGHTS)
    serialization.set_flag(trt.SerializationFlag.INCLUDE_REFIT)
    content = bytes(memoryview(engine.serialize_with_config(serialization)))
    write_bytes(output, content)
    sidecar.refitted(output, content, onnx, digest).write(output)
