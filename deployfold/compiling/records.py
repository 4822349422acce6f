"""The records of an engine build: the request, the reason for a missing engine, the result.

All records are plain data. The worker receives the request and the options as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployfold.config.engine import EngineOptions
from deployfold.config.inputs import InputSpec
from deployfold.config.optimization_profiles import InputShapes, OptimizationProfile
from deployfold.config.precision import Precision
from deployfold.errors import UsageError
from deployfold.targets.compute_capability import ComputeCapability, sm_name
from deployfold.targets.libraries import Library


def optimization_profiles(spec: InputSpec) -> tuple[OptimizationProfile, ...]:
    """The requested optimization profiles, or one profile of the fixed shapes."""
    shapes = zip(spec.names, spec.tensors, strict=True)
    fixed = tuple(InputShapes(name, *(tensor.shape,) * 3) for name, tensor in shapes)
    return spec.profiles or (fixed,)


@dataclass(frozen=True)
class EngineRequest:
    """One engine to build.

    Attributes:
        library: the Python package that builds the engine.
        targets: the target names that the engine serves, as the user wrote them.
        compute_capabilities: the GPUs to build for; ``((8, 9),)`` for sm_89. Several make one
            portable engine, which only TensorRT-RTX builds.
        current_gpu: build for and on the GPU in this machine.
        verify: load the engine after the build, which needs a GPU that can run it.
        profiles: the optimization profiles; may be empty if the ONNX has no dynamic axis.
        workspace_mib: the builder's workspace limit in MiB; ``None`` is the library's default.
        notes: sentences for the user about the choice of the library.

    Raises:
        UsageError: the fields contradict each other or a number is out of range.
    """

    library: Library
    precision: Precision
    targets: tuple[str, ...]
    compute_capabilities: tuple[ComputeCapability, ...]
    current_gpu: bool = False
    verify: bool = False
    profiles: tuple[OptimizationProfile, ...] = ()
    workspace_mib: int | None = None
    options: EngineOptions = field(default_factory=EngineOptions)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.compute_capabilities:
            raise UsageError("An engine needs at least one compute capability to build for.")
        if self.library == "tensorrt" and not self.current_gpu:
            raise UsageError("TensorRT builds only for the GPU in the machine it runs on.")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise UsageError(
                f"A workspace of {self.workspace_mib} MiB is too small.", hint="Allow 1 or more."
            )

    @property
    def label(self) -> str:
        """A word for file names that is unique within a plan: ``sm_89`` or ``portable``."""
        if len(self.compute_capabilities) > 1:
            named = any("," in target for target in self.targets)
            return "-".join(map(sm_name, self.compute_capabilities)) if named else "portable"
        name = sm_name(self.compute_capabilities[0])
        return name if self.library == "tensorrt_rtx" else f"tensorrt-{name}"

    def to_json(self) -> dict[str, Any]:
        """The request as JSON values; :meth:`from_json` reads it back."""
        request: dict[str, Any] = _adapter(type(self)).dump_python(self, mode="json")
        return request

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EngineRequest:
        """Read the output of :meth:`to_json`; keys of a newer deployfold are ignored."""
        request: EngineRequest = _adapter(cls).validate_python(data)
        return request


def _adapter(cls: type) -> Any:
    from pydantic import TypeAdapter  # run.py of a bundle imports this module without pydantic

    return TypeAdapter(cls)


@dataclass(frozen=True)
class NoEngine:
    """A target without an engine.

    Attributes:
        target: the name that the user wrote.
        reason: the reason, as sentences for the engine's row in the report.
        elsewhere: whether TensorRT on the device itself could build the engine.
    """

    target: str
    reason: str
    elsewhere: bool = True


@dataclass(frozen=True)
class EngineTensor:
    """One input or output of an engine.

    Attributes:
        dtype: the name of the dtype in numpy and ml_dtypes, or ``unknown``.
        shape: the shape, with -1 for a dynamic axis.
        mode: ``input`` or ``output``.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    mode: str


@dataclass(frozen=True)
class LayerCounts:
    """How many layers of each kind the parsed network has, before TensorRT fuses any.

    Attributes:
        total, quantize, dequantize: the layers of all kinds, and those of the two kinds.
        by_precision: the compute layers of each precision: convolutions, deconvolutions, matrix
            products and einsums.
    """

    total: int
    quantize: int
    dequantize: int
    by_precision: Mapping[Precision, int]

    @property
    def compute(self) -> int:
        """The number of compute layers of all precisions."""
        return sum(self.by_precision.values())

    def of(self, precision: Precision) -> int:
        """The number of compute layers of one precision."""
        return self.by_precision.get(precision, 0)

    def to_json(self) -> dict[str, int]:
        """The counts in one flat object: those of ``fp16`` under ``fp16``."""
        counts = {_key(one): self.of(one) for one in Precision}
        rest = {"quantize": self.quantize, "dequantize": self.dequantize}
        return {"total": self.total, **counts, **rest}

    @classmethod
    def from_json(cls, data: Mapping[str, int]) -> LayerCounts:
        """The counts that :meth:`to_json` wrote."""
        counts = {one: data[_key(one)] for one in Precision}
        return cls(data["total"], data["quantize"], data["dequantize"], counts)


def _key(precision: Precision) -> str:
    return precision.value.replace("-", "_")


@dataclass(frozen=True)
class BuiltLayer:
    """A compute layer of the network, and the kernel that the engine runs for it.

    Attributes:
        name: the ONNX node.
        kind: the name of its ``trt.LayerType``.
        asked: its precision in the network.
        got: the precision that the kernel reads. For a precision of weights alone: the precision
            that the engine stores the weight in, if it is the one asked for. ``None`` if the
            listing does not show it.
        writes: the precision that the kernel writes; ``None`` if the listing does not show it.
    """

    name: str
    kind: str
    asked: str | None
    got: str | None = None
    writes: str | None = None


@dataclass(frozen=True)
class EngineListing:
    """The kernels of a built engine, read back from the library's listing of its layers.

    Attributes:
        kernels: number of kernels that one inference launches.
        conversions: number of kernels that only change the type or the layout of tensors.
    """

    kernels: int
    conversions: int
    layers: tuple[BuiltLayer, ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EngineListing:
        """Read the JSON that the worker made with ``dataclasses.asdict``."""
        return cls(**{**data, "layers": tuple(BuiltLayer(**one) for one in data["layers"])})


@dataclass(frozen=True)
class EngineArtifact:
    """An engine on disk, with its sidecar ``<engine>.json``.

    Attributes:
        library_version: such as ``1.7.1.116``.
        layer_counts: the precisions in the network after parsing.
        seconds: wall-clock time of the whole build, with the start of the worker.
        log: the log of the worker and of the library.
        peak_bytes: the greatest resident memory of the worker; ``None`` where it is unknown.
        listing: the kernels of the engine; ``None`` if the library listed none.
    """

    path: Path
    bytes: int
    library: Library
    library_version: str
    compute_capabilities: tuple[ComputeCapability, ...]
    profiles: tuple[OptimizationProfile, ...]
    precision: Precision
    layer_counts: LayerCounts
    seconds: float
    log: Path
    sidecar: Path
    sha256: str
    peak_bytes: int | None = None
    notes: tuple[str, ...] = ()
    listing: EngineListing | None = None
