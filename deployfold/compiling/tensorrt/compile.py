"""Compiles an ONNX to an engine: starts the worker, which does the build.

This module refuses impossible requests before a worker starts. It writes the engine, the sidecar
and the log so that a failure never leaves a partial file.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from deployfold.compiling.records import EngineArtifact, EngineListing, EngineRequest, LayerCounts
from deployfold.compiling.sidecar import make_sidecar, sidecar_path
from deployfold.compiling.worker_process import run_worker
from deployfold.config.build_spec import BuildSpec
from deployfold.errors import CompileError, DeployfoldError
from deployfold.events import Emit, StageProgress, ignore
from deployfold.targets.libraries import precision_refusal
from deployfold.targets.machine import detect
from deployfold.util.files import atomic_path, sha256, write_text

from .builder_config import option_refusal


def compile_engine(
    onnx: Path,
    path: Path,
    request: EngineRequest,
    *,
    emit: Emit = ignore,
    timeout: float = BuildSpec.timeout,
    checked: bool = False,
) -> EngineArtifact:
    """Build one engine from a lowered ONNX in its own process.

    The engine goes to ``path``, its sidecar to ``<path>.json`` and the library's log to
    ``<path>.log``. The engine is a plain TensorRT file, so any TensorRT tool can load it. If the
    build fails, an earlier engine at ``path`` stays unchanged, and ``<path>.reproduce.sh`` runs the
    same build again.

    Args:
        onnx: the ONNX in the precision of the request, with external data beside it.
        request: an entry of :func:`~deployfold.compiling.planning.plan_engines`.
        timeout: seconds until the build is stopped.
        checked: whether the ONNX was checked before. If so, the package ``onnx`` is not needed.

    Raises:
        CompileError: the library cannot build this request (no worker was started), the ONNX is
            broken, or the build failed, crashed or took too long.
        UsageError: ``path`` cannot be written.
    """
    _refuse(request)
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

        def report(phase: str, fraction: float | None) -> None:
            emit(StageProgress("compile", phase, fraction))

        try:
            done = run_worker(job, log=log, timeout=timeout, report=report)
            if temporary.stat().st_size == 0:
                raise CompileError(
                    "The compile worker reported success but wrote no engine.",
                    hint=f"The log: {log}.",
                )
        except CompileError as error:
            if not _write_script(script, {**job, "engine": f"{path}.reproduced"}):
                raise
            again = f"{error.hint} To run the same build again: {script}."
            raise CompileError(error.message, hint=again) from error
        # Until the new sidecar is written, the engine at `path` counts as unfinished.
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
        layer_counts=LayerCounts.from_json(done["layer_counts"]),
        seconds=time.monotonic() - started,
        log=log,
        sidecar=sidecar,
        sha256=sha256(path),
        peak_bytes=done["peak_bytes"],
        notes=(*request.notes, *done["notes"]),
        listing=None if done["listing"] is None else EngineListing.from_json(done["listing"]),
    )
    # The sidecar names the GPU and driver only if the engine was built or loaded on the GPU.
    gpu = detect().gpu if request.current_gpu or request.verify else None
    make_sidecar(artifact, request, onnx, done["tensors"], gpu).write(path)
    return artifact


def _refuse(request: EngineRequest) -> None:
    refusal = option_refusal(request)
    if refusal is not None:
        raise CompileError(
            refusal, hint="Remove the option, or build on the device: deployfold finish."
        )
    refusal = precision_refusal(request.precision, request.compute_capabilities, request.library)
    if refusal is not None:
        raise CompileError(refusal, hint="Build in another precision, or for another --target.")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _write_script(path: Path, job: dict[str, Any]) -> bool:
    """Write the script that runs ``job`` again.

    Returns:
        Whether that succeeded. A failure, such as a full disk, must not hide the build's error.
    """
    # Passing the job by stdin keeps the script in one file. The empty directory keeps Python from
    # importing a tensorrt.py of the user.
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
