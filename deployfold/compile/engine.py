"""The parent's side of an engine build: start the worker, follow it, and keep the result whole."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from deployfold import __version__
from deployfold.errors import CompileError
from deployfold.events import Emit, StageProgress, ignore
from deployfold.files import atomic_path, sha256, unwritable, write_text

from .process import run_worker
from .request import EngineArtifact, EngineRequest, LayerCounts

STAGE = "compile"
SIDECAR_SCHEMA = 1


def compile_engine(
    onnx: Path,
    path: Path,
    request: EngineRequest,
    *,
    emit: Emit = ignore,
    timeout: float = 1800.0,
) -> EngineArtifact:
    """Build one engine from a lowered ONNX in a subprocess.

    Writes the engine to ``path``, its sidecar to ``<path>.json`` and the library's log to
    ``<path>.log``. The engine itself carries no header, so any TensorRT tool can load it. On
    failure no engine is written, an earlier one at ``path`` stays, and ``<path>.reproduce.sh``
    runs the same build again.

    Args:
        onnx: the ONNX, in the precision that the engine is to have; external data beside it.
        path: where the engine goes.
        request: what to build; see :func:`~deployfold.compile.plan.plan_engines`.
        emit: hears a ``StageProgress`` of the stage ``compile`` for each phase.
        timeout: seconds until the build is stopped.

    Raises:
        CompileError: the ONNX or the build failed, crashed or took too long.
        UsageError: ``path`` cannot be written.
    """
    started = time.monotonic()
    onnx, path = onnx.absolute(), path.absolute()
    sidecar, log = _beside(path, ".json"), _beside(path, ".log")
    script = _beside(path, ".reproduce.sh")
    with atomic_path(path) as temporary:
        job = {"request": request.to_json(), "onnx": str(onnx), "engine": str(temporary)}

        def hear(message: dict[str, Any]) -> None:
            emit(StageProgress(STAGE, str(message["phase"]), message["fraction"]))

        try:
            done = run_worker(job, log=log, timeout=timeout, hear=hear)
            if temporary.stat().st_size == 0:
                raise CompileError("The worker said that it was done and wrote no engine.")
        except CompileError as error:
            _write_script(script, {**job, "engine": f"{path}.reproduced"})
            raise CompileError(error.message, hint=_hint(error.hint, log, script)) from error
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
        notes=(*request.notes, *done["notes"]),
    )
    write_text(sidecar, json.dumps(_sidecar(artifact, request, onnx), indent=2) + "\n")
    return artifact


def _sidecar(artifact: EngineArtifact, request: EngineRequest, onnx: Path) -> dict[str, Any]:
    asked = request.to_json()
    return {
        "schema_version": SIDECAR_SCHEMA,
        "deployfold_version": __version__,
        "engine": artifact.path.name,
        "sha256": artifact.sha256,
        "bytes": artifact.bytes,
        "library": artifact.library,
        "library_version": artifact.library_version,
        "compute_capabilities": [
            "{}.{}".format(*capability) for capability in artifact.compute_capabilities
        ],
        "current_gpu": request.current_gpu,
        "loaded_on_gpu": request.verify,
        "targets": asked["targets"],
        "precision": asked["precision"],
        "layer_counts": vars(artifact.layer_counts),
        "profiles": asked["profiles"],
        "workspace_mib": request.workspace_mib,
        "optimization_level": request.optimization_level,
        "onnx": onnx.name,
        "onnx_sha256": sha256(onnx),
    }


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _hint(hint: str | None, log: Path, script: Path) -> str:
    return f"{hint + ' ' if hint else ''}The log: {log}. The same build again: {script}."


def _write_script(path: Path, job: dict[str, Any]) -> None:
    # The request goes through stdin, quoted, so that the script needs no second file; the empty
    # directory keeps a tensorrt.py of the user's from being imported.
    text = f"""#!/bin/sh
# Runs a failed engine build again; see the log beside this file.
set -e
cd "$(mktemp -d)"
exec {shlex.quote(sys.executable)} -m deployfold.compile.worker - <<'REQUEST'
{json.dumps(job, indent=2)}
REQUEST
"""
    write_text(path, text)
    try:
        path.chmod(path.stat().st_mode | 0o111)
    except OSError as error:
        raise unwritable(path, error) from error
