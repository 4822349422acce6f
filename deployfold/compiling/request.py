"""What an engine build is asked for, and what came of it: plain data, ready for JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployfold.config.engine import LIBRARY_TITLES as LIBRARY_TITLES
from deployfold.config.engine import EngineOptions
from deployfold.config.engine import Library as Library
from deployfold.config.precision import Precision
from deployfold.config.shapes import InputShapes, OptimizationProfile
from deployfold.config.spec import InputSpec
from deployfold.errors import UsageError
from deployfold.targets.catalogue import sm_name


def optimization_profiles(spec: InputSpec) -> tuple[OptimizationProfile, ...]:
    """The optimization profiles of an input spec: what it asks for, or its fixed shapes."""
    shapes = zip(spec.names, spec.tensors, strict=True)
    fixed = tuple(InputShapes(name, *(tensor.shape,) * 3) for name, tensor in shapes)
    return spec.profiles or (fixed,)


@dataclass(frozen=True)
class EngineRequest:
    """One engine to build.

    Attributes:
        library: the Python package that builds it.
        precision: the precision that the ONNX carries and the engine must have.
        targets: the target names it serves, as the user gave them.
        compute_capabilities: what it is built for; ``((8, 9),)`` for sm_89. Several make one
            portable engine, which TensorRT-RTX alone can build.
        current_gpu: built for, and on, the GPU in this machine.
        verify: the GPU in this machine can load it, so load it after the build.
        profiles: the optimization profiles; may stay empty where the ONNX has no dynamic axis.
        workspace_mib: the builder's workspace limit in MiB; ``None`` is the library's default.
        options: what else the builder is told.
        allow_nonfinite: build although weights are NaN or infinite.
        notes: sentences for the user about this choice.
    """

    library: Library
    precision: Precision
    targets: tuple[str, ...]
    compute_capabilities: tuple[tuple[int, int], ...]
    current_gpu: bool = False
    verify: bool = False
    profiles: tuple[OptimizationProfile, ...] = ()
    workspace_mib: int | None = None
    options: EngineOptions = field(default_factory=EngineOptions)
    allow_nonfinite: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.compute_capabilities:
            raise UsageError("An engine needs at least one compute capability to be built for.")
        if self.library == "tensorrt" and not self.current_gpu:
            raise UsageError("TensorRT builds only for the GPU in the machine it runs on.")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise UsageError(f"A workspace of {self.workspace_mib} MiB is too small.")

    @property
    def label(self) -> str:
        """A file-system-safe word that no other request of one plan has: ``sm_89``."""
        if len(self.compute_capabilities) > 1:
            named = any("," in target for target in self.targets)
            return "-".join(map(sm_name, self.compute_capabilities)) if named else "portable"
        name = sm_name(self.compute_capabilities[0])
        return name if self.library == "tensorrt_rtx" else f"tensorrt-{name}"

    def to_json(self) -> dict[str, Any]:
        """The request as JSON values; :meth:`from_json` reads it back."""
        return dataclasses.asdict(self) | {
            "precision": self.precision.value,
            "options": self.options.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EngineRequest:
        """Read what :meth:`to_json` wrote."""
        profiles = tuple(
            tuple(
                InputShapes(
                    shapes["name"], *(tuple(shapes[bound]) for bound in ("min", "opt", "max"))
                )
                for shapes in profile
            )
            for profile in data["profiles"]
        )
        pairs = tuple((major, minor) for major, minor in data["compute_capabilities"])
        return cls(
            **{
                **data,
                "precision": Precision(data["precision"]),
                "targets": tuple(data["targets"]),
                "compute_capabilities": pairs,
                "profiles": profiles,
                "options": EngineOptions.from_json(data.get("options", {})),
                "notes": tuple(data["notes"]),
            }
        )


@dataclass(frozen=True)
class NoEngine:
    """A target that no compiler here serves, and the sentence for its row in the report.

    ``elsewhere``: TensorRT on the device itself could build it.
    """

    target: str
    reason: str
    elsewhere: bool = True


@dataclass(frozen=True)
class LayerCounts:
    """The layers of the parsed network, before TensorRT fuses any.

    The compute layers are the convolutions, deconvolutions, matrix products and einsums; their
    precision is the type of their first operand; ``int8`` or ``fp8`` where it was dequantised from
    that, and ``int4`` where their weight was.
    """

    total: int
    fp32: int
    fp16: int
    bf16: int
    int8: int
    quantize: int
    dequantize: int
    fp8: int = 0
    int4: int = 0

    @property
    def compute(self) -> int:
        """The compute layers of every precision."""
        return self.fp32 + self.fp16 + self.bf16 + self.int8 + self.fp8 + self.int4


@dataclass(frozen=True)
class EngineArtifact:
    """An engine on disk, with its sidecar ``<engine>.json``.

    Attributes:
        bytes: the engine's size.
        library_version: what the library calls itself, such as ``1.7.1.116``.
        layer_counts: the precisions found in the network after parsing.
        seconds: wall-clock time of the whole build, the worker's start included.
        log: the worker's and the library's log.
        peak_bytes: the greatest resident memory of the worker, where the system tells.
        notes: sentences for the user.
    """

    path: Path
    bytes: int
    library: Library
    library_version: str
    compute_capabilities: tuple[tuple[int, int], ...]
    profiles: tuple[OptimizationProfile, ...]
    precision: Precision
    layer_counts: LayerCounts
    seconds: float
    log: Path
    sidecar: Path
    sha256: str
    peak_bytes: int | None = None
    notes: tuple[str, ...] = ()
