"""The sidecar ``<engine>.json``: the library, the GPUs and the ONNX that an engine was built with.

TensorRT's own errors for an engine of another GPU or version name internal versions and tags. The
sidecar is read before the engine, so that the error can name both in one sentence.
"""

from __future__ import annotations

import hashlib
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
from deployfold.targets.libraries import LIBRARIES, Library, version_parts
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


@dataclass(frozen=True, eq=False)
class Sidecar:
    """The content of a sidecar.

    An older or a hand-made sidecar may lack fields, or have them in another form. Such a field
    counts as missing, and a missing field is no reason against an engine.

    Attributes:
        content: the JSON object.
        library: the Python package that built the engine.
        library_version: such as ``11.4.0.106``; empty if it is missing.
        precision: the value of a :class:`~deployfold.config.precision.Precision`.
        targets: the target names that the engine serves, as the user wrote them.
        compute_capabilities: those that the engine was built for.
        options: the fields of :class:`~deployfold.config.engine.EngineOptions`.
        sha256: of the engine.
        onnx, onnx_sha256: name and SHA-256 of the ONNX that its weights came from.
        refitted_from: the SHA-256 of the engine that this one is a copy of, with weights.
    """

    content: Mapping[str, Any]
    library: Library
    library_version: str
    precision: str | None
    targets: tuple[str, ...]
    compute_capabilities: tuple[ComputeCapability, ...]
    options: Mapping[str, Any]
    sha256: str | None
    onnx: str | None
    onnx_sha256: str | None
    refitted_from: str | None

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Sidecar:
        """The sidecar with this content, whose ``library`` is one of ``LIBRARIES``."""
        texts = {key: value for key, value in content.items() if isinstance(value, str)}
        capabilities = map(parse_dotted, _words(content.get("compute_capabilities")))
        options, onnx = content.get("options"), texts.get("onnx")
        return cls(
            content=content,
            library=content["library"],
            library_version=texts.get("library_version", ""),
            precision=texts.get("precision"),
            targets=_words(content.get("targets")),
            compute_capabilities=tuple(one for one in capabilities if one is not None),
            options=options if isinstance(options, dict) else {},
            sha256=texts.get("sha256"),
            onnx=None if onnx is None else Path(onnx).name,  # a path could lead out of the folder
            onnx_sha256=texts.get("onnx_sha256"),
            refitted_from=texts.get("refitted_from"),
        )

    @property
    def weight_stripped(self) -> bool:
        """Whether the engine was built without weights, and needs refitting before it runs."""
        return bool(self.options.get("strip_plan"))

    @property
    def refittable(self) -> bool:
        """Whether the weights of the engine can be replaced."""
        return self.weight_stripped or bool(self.options.get("refit"))

    @property
    def built_for(self) -> str:
        """The GPUs that the engine was built for, for messages: ``sm_80, sm_89``."""
        capabilities = self.compute_capabilities
        return sm_names(capabilities) if capabilities else "an NVIDIA GPU"

    def incompatibility(self, here: Here) -> str | None:
        """Why the engine cannot run here, in one sentence; ``None`` if no field is a reason.

        1. TensorRT-RTX: the GPU must be among those it was built for.
        2. TensorRT: the compute capability must be that of the GPU it was built on; with
           ``ampere_plus`` it may be any from 8.0 on.
        3. TensorRT: the first three parts of the version must be the same; the library itself may
           be stricter. With ``version_compatible`` it may also be a newer version of the same
           major, or of the next one where :data:`RUNS_ON_NEXT_MAJOR` has the pair.
        """
        if self._serves_gpu(here) and self._serves_version(here):
            return None
        title = LIBRARIES[self.library].title
        return (
            f"built for {self.built_for} by {title} {self.library_version or 'an unknown version'};"
            f" this is {sm_name(here.compute_capability)} with {title} {here.library_version}: "
            "run deployfold finish here"
        )

    def wrong_size(self, engine: Path) -> str | None:
        """Why the engine's size shows that this describes another file; ``None`` if it does not.

        The size is cheap to read. :meth:`describes` takes about a second for a gigabyte.
        """
        size, wanted = engine.stat().st_size, self.content.get("bytes")
        if isinstance(wanted, int) and size != wanted:
            return (
                f"it has {size} bytes instead of the {wanted} in its sidecar; copy both files again"
            )
        return None

    def describes(self, engine: Path) -> bool:
        """Whether the SHA-256 of the engine is the one in the sidecar."""
        return self.sha256 in (None, sha256(engine))

    def tensors(self, path: Path) -> EngineTensors:
        """The inputs, outputs and optimization profiles of the engine at ``path``.

        Raises:
            UsageError: the sidecar does not describe them.
        """
        try:
            tensors = [
                EngineTensor(
                    str(one["name"]), str(one["dtype"]), tuple(map(int, one["shape"])), one["mode"]
                )
                for one in self.content["tensors"]
            ]
            profiles = profiles_from_json(self.content["profiles"])
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

    def refitted(self, engine: Path, content: bytes, onnx: Path, onnx_sha256: str) -> Sidecar:
        """The sidecar of a copy of the engine with the weights of another ONNX.

        Args:
            engine: the path of the copy.
            content: its bytes.
            onnx: the ONNX that its weights came from.
        """
        return Sidecar.of(
            {
                **self.content,
                "engine": engine.name,
                "sha256": hashlib.sha256(content).hexdigest(),
                "bytes": len(content),
                "options": {**self.options, "strip_plan": False, "refit": True},
                "onnx": onnx.name,
                "onnx_sha256": onnx_sha256,
                "refitted_from": self.sha256,
            }
        )

    def write(self, engine: Path) -> None:
        """Write the sidecar beside the engine, as JSON, atomically."""
        write_text(sidecar_path(engine), json.dumps(self.content, indent=2) + "\n")

    def _serves_gpu(self, here: Here) -> bool:
        capabilities = self.compute_capabilities
        if not capabilities or here.compute_capability in capabilities:
            return True
        level = self.options.get("hardware_compatibility")
        ampere = level == "ampere_plus" and self.library == "tensorrt"
        return ampere and here.compute_capability >= (8, 0)

    def _serves_version(self, here: Here) -> bool:
        built, have = version_parts(self.library_version), version_parts(here.library_version)
        if self.library != "tensorrt" or not built or not have or built[:3] == have[:3]:
            return True
        if not self.options.get("version_compatible"):
            return False
        return (built[0] == have[0] and built < have) or (built[0], have[0]) in RUNS_ON_NEXT_MAJOR


def _words(values: object) -> tuple[str, ...]:
    return tuple(map(str, values)) if isinstance(values, list) else ()


def make_sidecar(
    artifact: EngineArtifact,
    request: EngineRequest,
    onnx: Path,
    tensors: Sequence[Mapping[str, Any]],
    gpu: Gpu | None,
) -> Sidecar:
    """The sidecar of a new engine.

    Args:
        tensors: the engine's inputs and outputs: ``name``, ``mode``, ``shape`` and ``dtype``.
        gpu: the GPU it was built on, or ``None`` if it was built without.
    """
    asked = request.to_json()
    content = {
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
    return Sidecar.of(content)


def read_sidecar(engine: Path) -> Sidecar:
    """Read the sidecar of an engine.

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
    return Sidecar.of(sidecar)
