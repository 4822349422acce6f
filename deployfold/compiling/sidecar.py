"""The sidecar ``<engine>.json``: the library, the GPUs and the ONNX that an engine was built with.

TensorRT's own errors for an engine of another GPU or version name internal versions and tags. The
sidecar is read before the engine, so that the error can name both in one sentence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployfold import __version__
from deployfold.config.optimization_profiles import OptimizationProfile, profiles_from_json
from deployfold.errors import MeasureError, UsageError
from deployfold.targets.compute_capability import (
    ComputeCapability,
    dotted,
    parse_dotted,
    sm_name,
    sm_names,
)
from deployfold.targets.libraries import LIBRARIES, version_parts
from deployfold.targets.machine import Gpu
from deployfold.util.files import sha256, write_text
from deployfold.util.onnx_files import onnx_sha256

from .records import EngineArtifact, EngineRequest, EngineTensor

SIDECAR_SCHEMA = 1
RUNS_ON_NEXT_MAJOR = {(10, 11)}
"""Pairs of major versions of TensorRT: the second runs version-compatible engines of the first.
deployfold builds with 10.3 and newer, and NVIDIA's support matrix lists these:
https://docs.nvidia.com/deeplearning/tensorrt/11.4.1/getting-started/support-matrix.html."""


@dataclass(frozen=True)
class Here:
    """The GPU and the library version that are about to load an engine."""

    compute_capability: ComputeCapability
    library_version: str


@dataclass(frozen=True)
class EngineTensors:
    """The inputs and outputs of an engine, in its order, and its optimization profiles."""

    inputs: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]
    profiles: tuple[OptimizationProfile, ...]


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
    """The content of the sidecar of a new engine, as JSON values.

    Args:
        tensors: the engine's inputs and outputs: ``name``, ``mode``, ``shape`` and ``dtype``.
        gpu: the GPU it was built on, or ``None`` if it was built without.
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
        "compute_capabilities": [dotted(one) for one in artifact.compute_capabilities],
        "gpu": None if gpu is None else gpu.name,
        "driver": None if gpu is None else gpu.driver_version,
        "current_gpu": request.current_gpu,
        "loaded_on_gpu": request.verify and not request.options.strip_plan,
        "targets": asked["targets"],
        "precision": asked["precision"],
        "layer_counts": artifact.layer_counts.to_json(),
        "tensors": [dict(tensor) for tensor in tensors],
        "profiles": asked["profiles"],
        "workspace_mib": request.workspace_mib,
        "options": asked["options"],
        "onnx": onnx.name,
        "onnx_sha256": onnx_sha256(onnx),
    }


def write_sidecar(sidecar: Mapping[str, Any], path: Path) -> None:
    """Write a sidecar as JSON, atomically."""
    write_text(path, json.dumps(sidecar, indent=2) + "\n")


def read_sidecar(engine: Path) -> dict[str, Any]:
    """Read the sidecar of an engine; its ``library`` is one of ``LIBRARIES``.

    Raises:
        MeasureError: the sidecar is missing, is not JSON, or names no such library.
    """
    path = sidecar_path(engine)
    hint = "Every engine that deployfold builds has a sidecar; keep the two files together."
    try:
        sidecar = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MeasureError(
            f"{engine.name} has no readable sidecar {path.name}: {error.strerror}.", hint=hint
        ) from error
    except (ValueError, RecursionError) as error:
        raise MeasureError(f"{path.name} is not JSON.", hint=hint) from error
    if not isinstance(sidecar, dict) or sidecar.get("library") not in LIBRARIES:
        raise MeasureError(
            f"{path.name} does not name the library of the engine ({' or '.join(LIBRARIES)}).",
            hint=hint,
        )
    return sidecar


def built_for(sidecar: Mapping[str, Any]) -> str:
    """The GPUs an engine was built for: ``sm_80, sm_89`` from ``compute_capabilities``."""
    capabilities = _capabilities(sidecar)
    return sm_names(capabilities) if capabilities else "an NVIDIA GPU"


def incompatibility(sidecar: Mapping[str, Any], here: Here) -> str | None:
    """Why the engine cannot run here, in one sentence; ``None`` if the sidecar names no reason.

    1. TensorRT-RTX: the GPU must be among those it was built for.
    2. TensorRT: the compute capability must be that of the GPU it was built on; with
       ``ampere_plus`` it may be any from 8.0 on.
    3. TensorRT: the first three parts of the version must be the same; the library itself may be
       stricter. With ``version_compatible`` it may also be a newer version of the same major, or
       of the next one where :data:`RUNS_ON_NEXT_MAJOR` has the pair.

    A field that an older or a hand-made sidecar lacks counts as no reason.
    """
    if _serves_gpu(sidecar, here) and _serves_version(sidecar, here):
        return None
    title = LIBRARIES[sidecar["library"]].title
    built = str(sidecar.get("library_version", "")) or "an unknown version"
    return (
        f"built for {built_for(sidecar)} by {title} {built}; this is "
        f"{sm_name(here.compute_capability)} with {title} {here.library_version}: "
        "run deployfold finish here"
    )


def wrong_size(sidecar: Mapping[str, Any], engine: Path) -> str | None:
    """Why the engine's size shows that its sidecar describes another file; ``None`` if it does not.

    The size is cheap to read. :func:`hash_differs` takes about a second for a gigabyte.
    """
    size, wanted = engine.stat().st_size, sidecar.get("bytes")
    if isinstance(wanted, int) and size != wanted:
        return f"it has {size} bytes instead of the {wanted} in its sidecar; copy both files again"
    return None


def hash_differs(sidecar: Mapping[str, Any], engine: Path) -> bool:
    """Whether the engine's SHA-256 is not the one in the sidecar."""
    return isinstance(sidecar.get("sha256"), str) and sha256(engine) != sidecar["sha256"]


def weight_stripped(sidecar: Mapping[str, Any]) -> bool:
    """Whether the engine was built without weights, and needs refitting before it runs."""
    return bool(_options(sidecar).get("strip_plan"))


def refittable(sidecar: Mapping[str, Any]) -> bool:
    """Whether the weights of the engine can be replaced."""
    options = _options(sidecar)
    return bool(options.get("strip_plan") or options.get("refit"))


def engine_tensors(sidecar: Mapping[str, Any], path: Path) -> EngineTensors:
    """The inputs, outputs and optimization profiles of an engine.

    Raises:
        UsageError: the sidecar does not describe them.
    """
    try:
        tensors = [
            EngineTensor(
                str(one["name"]), str(one["dtype"]), tuple(map(int, one["shape"])), one["mode"]
            )
            for one in sidecar["tensors"]
        ]
        profiles = profiles_from_json(sidecar["profiles"])
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise UsageError(
            f"The sidecar of {path.name} does not describe the engine's inputs: {error!r}.",
            hint="An older deployfold wrote it, or it is damaged: build the engine again.",
        ) from error
    return EngineTensors(
        tuple(one for one in tensors if one.mode == "input"),
        tuple(one for one in tensors if one.mode == "output"),
        profiles,
    )


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


def _capabilities(sidecar: Mapping[str, Any]) -> list[ComputeCapability]:
    listed = sidecar.get("compute_capabilities")
    found = (parse_dotted(str(text)) for text in (listed if isinstance(listed, list) else ()))
    return [capability for capability in found if capability is not None]
