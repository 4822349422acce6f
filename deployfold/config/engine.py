"""What an engine build may be told beside its precision and shapes: plain data, ready for JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from deployfold.errors import UsageError

HardwareCompatibility = Literal["none", "ampere_plus", "same_compute_capability"]
HARDWARE_COMPATIBILITY: tuple[str, ...] = get_args(HardwareCompatibility)
"""The members of ``trt.HardwareCompatibilityLevel``, in lower case."""


@dataclass(frozen=True)
class EngineOptions:
    """The builder's options; every default leaves the library's own.

    Which library has which is asked of the library itself, in the worker; what no library can do
    together is refused here.

    Attributes:
        optimization_level: 0 (fast build) to 5 (fast engine).
        timing_cache: a directory of timing caches, one file for each GPU, library and version;
            kernels timed in one build are not timed again in the next.
        hardware_compatibility: on which GPUs beside the one it is built on the engine shall run.
        version_compatible: the engine shall load in newer TensorRT versions, too; it can be slower.
        exclude_lean_runtime: leave out of a version-compatible engine the runtime that it would
            carry, and load NVIDIA's from the machine instead.
        weight_streaming: weights may stay in host memory, for models larger than the GPU's.
        strip_plan: leave the weights out of the engine; they come back by refitting.
        refit: weights can be replaced later, at some cost in speed.
        dla_core: run on that DLA core of a Jetson, counted from 0.
        gpu_fallback: run on the GPU what the DLA cannot.

    Raises:
        UsageError: a value is out of its range, or two options exclude each other.
    """

    optimization_level: int | None = None
    timing_cache: Path | None = None
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    exclude_lean_runtime: bool = False
    weight_streaming: bool = False
    strip_plan: bool = False
    refit: bool = False
    dla_core: int | None = None
    gpu_fallback: bool = True

    def __post_init__(self) -> None:
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            # TensorRT-RTX 1.7 takes 9 without a word.
            raise UsageError(
                f"The builder optimization level must be 0 to 5, not {self.optimization_level}."
            )
        if self.hardware_compatibility not in HARDWARE_COMPATIBILITY:
            raise UsageError(
                f"{self.hardware_compatibility!r} is not a hardware compatibility level.",
                hint=f"Use one of: {', '.join(HARDWARE_COMPATIBILITY)}.",
            )
        if self.exclude_lean_runtime and not self.version_compatible:
            raise UsageError("Only a version-compatible engine has a lean runtime to leave out.")
        if self.dla_core is not None and self.dla_core < 0:
            raise UsageError(f"A DLA core is counted from 0; {self.dla_core} is none.")

    @property
    def asked(self) -> tuple[str, ...]:
        """The names of the options that are not at their default."""
        return tuple(
            field.name
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        )

    def to_json(self) -> dict[str, Any]:
        """The options as JSON values; :meth:`from_json` reads them back."""
        cache = None if self.timing_cache is None else str(self.timing_cache)
        return dataclasses.asdict(self) | {"timing_cache": cache}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EngineOptions:
        """Read what :meth:`to_json` wrote; a key of a newer deployfold is left out."""
        known = {field.name for field in dataclasses.fields(cls)}
        values = {key: value for key, value in data.items() if key in known}
        cache = values.get("timing_cache")
        return cls(**values | {"timing_cache": None if cache is None else Path(cache)})
