"""The sidecar ``<engine>.json``: what an engine was built by, for and from, and where it runs.

TensorRT's own errors for an engine that does not belong here name internal versions and tags. The
sidecar is read first, and says it in one sentence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployfold import __version__
from deployfold.config.spec import TensorSpec
from deployfold.errors import MeasureError, UsageError
from deployfold.targets.catalogue import sm_name
from deployfold.targets.machine import Gpu
from deployfold.util.files import sha256, write_text

from .request import LIBRARY_TITLES, EngineArtifact, EngineRequest
from .tensorrt.known_issues import version_parts

SIDECAR_SCHEMA = 1
RUNS_ON_NEXT_MAJOR = {(10, 11)}
"""Pairs of majors of TensorRT of which a version-compatible engine of the first runs on the second
(deployfold builds with 10.3 and newer):
https://docs.nvidia.com/deeplearning/tensorrt/11.4.1/getting-started/support-matrix.html."""


@dataclass(frozen=True)
class Here:
    """The GPU and the library that an engine is about to be loaded with."""

    compute_capability: tuple[int, int]
    library_version: str


def sidecar_path(engine: Path) -> Path:
    """``net.engine.json`` for ``net.engine``."""
    return engine.with_name(f"{engine.name}.json")


def make_sidecar(
    artifact: EngineArtifact,
    request: EngineRequest,
    onnx: Path,
    tensors: Sequence[Mapping[str, Any]],
    gpu: Gpu | None,
) -> dict[str, Any]:
    """What the sidecar says, as JSON values.

    Args:
        tensors: the engine's inputs and outputs: ``name``, ``mode``, ``shape`` and ``dtype``.
        gpu: that it was built on, or ``None``.
    """
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
        "gpu": None if gpu is None else gpu.name,
        "driver": None if gpu is None else gpu.driver_version,
        "current_gpu": request.current_gpu,
        "loaded_on_gpu": request.verify and not request.options.strip_plan,
        "targets": asked["targets"],
        "precision": asked["precision"],
        "layer_counts": vars(artifact.layer_counts),
        "tensors": [dict(tensor) for tensor in tensors],
        "profiles": asked["profiles"],
        "workspace_mib": request.workspace_mib,
        "options": asked["options"],
        "onnx": onnx.name,
        "onnx_sha256": sha256(onnx),
    }


def write_sidecar(sidecar: Mapping[str, Any], path: Path) -> None:
    """Write it as JSON, atomically."""
    write_text(path, json.dumps(sidecar, indent=2) + "\n")


def read_sidecar(engine: Path) -> dict[str, Any]:
    """The JSON object beside an engine, ``<engine>.json``, with a known ``library``.

    Raises:
        MeasureError: it is missing, not JSON, or names no library that deployfold can run.
    """
    path = sidecar_path(engine)
    hint = "Engines that deployfold builds come with one; keep the two files together."
    try:
        sidecar = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MeasureError(
            f"{engine.name} has no readable sidecar {path.name}: {error.strerror}.", hint=hint
        ) from error
    except (ValueError, RecursionError) as error:
        raise MeasureError(f"{path.name} is not JSON.", hint=hint) from error
    if not isinstance(sidecar, dict) or sidecar.get("library") not in LIBRARY_TITLES:
        raise MeasureError(
            f"{path.name} does not say which of {' and '.join(LIBRARY_TITLES)} built the engine.",
            hint=hint,
        )
    return sidecar


def built_for(sidecar: Mapping[str, Any]) -> str:
    """The GPUs an engine was built for: ``sm_80, sm_89`` from ``compute_capabilities``."""
    capabilities = _capabilities(sidecar)
    return ", ".join(map(sm_name, capabilities)) if capabilities else "an NVIDIA GPU"


def mismatch(sidecar: Mapping[str, Any], here: Here) -> str | None:
    """Why the engine cannot run here, in one sentence; ``None`` where nothing speaks against it.

    1. TensorRT-RTX: the GPU's SM must be among those it was built for.
    2. TensorRT: the SM must be the one it was built on, or, with ``ampere_plus``, 8.0 or newer.
    3. TensorRT: the version must be the same in its first three parts (the library itself may ask
       for more), or with ``version_compatible`` a newer one of the same major, or a pair of
       :data:`RUNS_ON_NEXT_MAJOR`.

    What an older or a hand-made sidecar does not say is not held against it.
    """
    if _serves_gpu(sidecar, here) and _serves_version(sidecar, here):
        return None
    title = LIBRARY_TITLES[sidecar["library"]]
    built = str(sidecar.get("library_version", "")) or "an unknown version"
    return (
        f"built for {built_for(sidecar)} by {title} {built}; this is "
        f"{sm_name(here.compute_capability)} with {title} {here.library_version}: "
        "run deployfold finish here"
    )


def damage(sidecar: Mapping[str, Any], engine: Path) -> str | None:
    """Whether the engine is another file than the one the sidecar describes, by its size.

    The hash would cost a second for a gigabyte, each time; :func:`differs` compares it.
    """
    size, wanted = engine.stat().st_size, sidecar.get("bytes")
    if isinstance(wanted, int) and size != wanted:
        return f"it has {size} bytes and its sidecar says {wanted}; copy the two again"
    return None


def differs(sidecar: Mapping[str, Any], engine: Path) -> bool:
    """Whether the engine's SHA-256 is another than the sidecar's."""
    return isinstance(sidecar.get("sha256"), str) and sha256(engine) != sidecar["sha256"]


def weight_stripped(sidecar: Mapping[str, Any]) -> bool:
    """Whether the engine was built without its weights, and has to be refitted before it runs."""
    return bool(_options(sidecar).get("strip_plan"))


def _serves_gpu(sidecar: Mapping[str, Any], here: Here) -> bool:
    capabilities = _capabilities(sidecar)
    if not capabilities or here.compute_capability in capabilities:
        return True
    level = _options(sidecar).get("hardware_compatibility")
    ampere = level == "ampere_plus" and sidecar["library"] == "tensorrt"
    return ampere and here.compute_capability >= (8, 0)


def _serves_version(sidecar: Mapping[str, Any], here: Here) -> bool:
    built = version_parts(str(sidecar.get("library_version", "")))
    have = version_parts(here.library_version)
    if sidecar["library"] != "tensorrt" or not built or not have or built[:3] == have[:3]:
        return True
    if not _options(sidecar).get("version_compatible"):
        return False
    return (built[0] == have[0] and built < have) or (built[0], have[0]) in RUNS_ON_NEXT_MAJOR


def _options(sidecar: Mapping[str, Any]) -> Mapping[str, Any]:
    options = sidecar.get("options")
    return options if isinstance(options, dict) else {}


def _capabilities(sidecar: Mapping[str, Any]) -> list[tuple[int, int]]:
    found = []
    listed = sidecar.get("compute_capabilities")
    for text in listed if isinstance(listed, list) else ():
        major, _, minor = str(text).partition(".")
        if major.isdecimal() and minor.isdecimal():
            found.append((int(major), int(minor)))
    return found


def input_tensors(sidecar: Mapping[str, Any], path: Path) -> tuple[TensorSpec, ...]:
    """The inputs that an engine takes, with the opt shapes of its first optimization profile.

    Raises:
        UsageError: the sidecar does not say.
    """
    try:
        opt = {one["name"]: tuple(one["opt"]) for one in (sidecar["profiles"] or [[]])[0]}
        return tuple(
            TensorSpec(
                opt.get(one["name"], tuple(max(1, size) for size in one["shape"])),
                one["name"],
                one["dtype"],
            )
            for one in sidecar["tensors"]
            if one["mode"] == "input"
        )
    except (KeyError, TypeError, IndexError) as error:
        raise UsageError(
            f"The sidecar of {path.name} does not say what inputs it takes.",
            hint="Build the engine again; an older deployfold wrote it.",
        ) from error
