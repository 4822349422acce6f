"""The parent's side of an engine build: start the worker, follow it, and keep the result whole."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from deployfold.errors import CompileError, DeployfoldError
from deployfold.events import Emit, StageProgress, ignore
from deployfold.targets.hardware import precision_refusal
from deployfold.targets.machine import detect
from deployfold.util.files import atomic_path, sha256, write_text

from .process import run_worker
from .request import EngineArtifact, EngineRequest, LayerCounts
from .sidecar import make_sidecar, sidecar_path, write_sidecar
from .tensorrt.configure import option_refusal

STAGE = "compile"


def compile_engine(
    onnx: Path,
    path: Path,
    request: EngineRequest,
    *,
    emit: Emit = ignore,
    timeout: float = 1800.0,
    checked: bool = False,
) -> EngineArtifact:
    """Build one engine from a lowered ONNX in a subprocess.

    Writes the engine to ``path``, its sidecar to ``<path>.json`` and the library's log to
    ``<path>.log``. The engine itself carries no header, so any TensorRT tool can load it. On
    failure no engine is written, an earlier one at ``path`` stays, and ``<path>.reproduce.sh``
    runs the same build again.

    Args:
        onnx: the ONNX, in the precision that the engine is to have; external data beside it.
        path: where the engine goes.
        request: what to build; see :func:`~deployfold.compiling.plan.plan_engines`.
        emit: hears a ``StageProgress`` of the stage ``compile`` for each phase.
        timeout: seconds until the build is stopped.
        checked: the ONNX was checked before, and the package ``onnx`` is not needed.

    Raises:
        CompileError: the ONNX or the build failed, crashed or took too long; or no library can
            build that, and then nothing is started.
        UsageError: ``path`` cannot be written.
    """
    refusal = option_refusal(request)
    if refusal is not None:
        raise CompileError(refusal, hint="Leave it out, or build on the device: deployfold finish.")
    refusal = precision_refusal(
        request.precision.value, request.compute_capabilities, request.library
    )
    if refusal is not None:
        raise CompileError(refusal)
    started = time.monotonic()
    onnx, path = onnx.absolute(), path.absolute()
    sidecar, log = sidecar_path(path), _beside(path, ".log")
    script = _beside(path, ".reproduce.sh")
    with atomic_path(path) as temporary:
        job = {
            "request": request.to_json(),
            "onnx": str(onnx),
            "engine": str(temporary),
            "checked": checked,
        }

        def hear(message: dict[str, Any]) -> None:
            emit(StageProgress(STAGE, str(message["phase"]), message["fraction"]))

        try:
            done = run_worker(job, log=log, timeout=timeout, hear=hear)
            if temporary.stat().st_size == 0:
                raise CompileError("The worker said that it was done and wrote no engine.")
        except CompileError as error:
            written = _write_script(script, {**job, "engine": f"{path}.reproduced"})
            hint = _hint(error.hint, log, script if written else None)
            raise CompileError(error.message, hint=hint) from error
        # From here to its new sidecar the engine at `path` counts as unfinished.
        sidecar.unlink(missing_ok=True)
    script.unlink(missing_ok=True)
    artifact = EngineArtifact(
        path=path,
        bytes=path.stat().st_size,
        library=request.library,
        library_version=str(done["library_version"]),
        compute_capabilities=request.compute_capabilities,
        profiles=request.profiles,
        precision=request.precision,
        layer_counts=LayerCounts(**done["layer_counts"]),
        seconds=time.monotonic() - started,
        log=log,
        sidecar=sidecar,
        sha256=sha256(path),
        peak_bytes=done["peak_bytes"],
        notes=(*request.notes, *done["notes"]),
    )
    # The driver is part of what the engine was built with only where it was built on its GPU.
    gpu = detect().gpu if request.current_gpu or request.verify else None
    write_sidecar(make_sidecar(artifact, request, onnx, done["tensors"], gpu), sidecar)
    return artifact


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _hint(hint: str | None, log: Path, script: Path | None) -> str:
    again = "" if script is None else f" The same build again: {script}."
    return f"{hint + ' ' if hint else ''}The log: {log}.{again}"


def _write_script(path: Path, job: dict[str, Any]) -> bool:
    """Write the script that runs ``job`` again; whether that succeeded.

    What went wrong with the build is what the user must hear, and not that the disk is also full.
    """
    # The request goes through stdin, quoted, so that the script needs no second file; the empty
    # directory keeps a tensorrt.py of the user's from being imported.
    text = f"""#!/bin/sh
# Runs a failed engine build again; see the log beside this file.
set -e
cd "$(mktemp -d)"
exec {shlex.quote(sys.executable)} -m deployfold.compiling.worker - <<'REQUEST'
{json.dumps(job, indent=2)}
REQUEST
"""
    try:
        write_text(path, text)
        path.chmod(path.stat().st_mode | 0o111)
    except (OSError, DeployfoldError):
        return False
    return True
