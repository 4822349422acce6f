"""The options of the engine builder other than precision and shapes, as plain data for JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from deployfold.errors import UsageError

from .option_field import Panel, check_ranges, option

HardwareCompatibility = Literal["none", "ampere_plus", "same_compute_capability"]
HARDWARE_COMPATIBILITY: tuple[str, ...] = get_args(HardwareCompatibility)
"""The members of ``trt.HardwareCompatibilityLevel``, in lower case."""


@dataclass(frozen=True)
class EngineOptions:
    """The options of the engine builder other than precision and shapes.

    Every default keeps the library's own default. The worker process checks which options the
    library has. This class refuses the combinations that no library supports.

    Raises:
        UsageError: a value is out of its range, or two options exclude each other.
    """

    optimization_level: int | None = option(
        None,
        "Time spent on finding fast kernels: 0 (fast build) to 5 (fast engine).",
        Panel.ENGINE,
        metavar="0-5",
        least=0,
        most=5,  # TensorRT-RTX 1.7 accepts 9 without an error
    )
    timing_cache: Path | None = option(
        None,
        "A folder that keeps TensorRT's kernel timings for the next build.",
        Panel.ENGINE,
        metavar="DIR",
    )
    hardware_compatibility: HardwareCompatibility = option(
        "none", "Which other GPUs can run the engine.", Panel.ENGINE, metavar="LEVEL"
    )
    version_compatible: bool = option(
        False, "Newer TensorRT versions can load the engine; it may be slower.", Panel.ENGINE
    )
    exclude_lean_runtime: bool = option(
        False,
        "Leave the runtime out of a version-compatible engine; the device then needs NVIDIA's.",
        Panel.ENGINE,
    )
    weight_streaming: bool = option(
        False, "Weights may stay in host memory, for models larger than the GPU's.", Panel.ENGINE
    )
    strip_plan: bool = option(
        False, "Leave the weights out of the engine; refitting brings them back.", Panel.ENGINE
    )
    refit: bool = option(
        False, "Weights can be replaced later, at some cost in speed.", Panel.ENGINE
    )
    dla_core: int | None = option(
        None,
        "Run on this DLA core of a Jetson, counted from 0.",
        Panel.ENGINE,
        metavar="N",
        least=0,
    )
    tf32: bool = option(
        True,
        "Do not round fp32 to TF32 on a GPU, in any row; by default, every runtime does.",
        Panel.ENGINE,
    )
    gpu_fallback: bool = option(
        True,
        "Fail if the DLA cannot run a layer, instead of running it on the GPU.",
        Panel.ENGINE,
    )

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.hardware_compatibility not in HARDWARE_COMPATIBILITY:
            raise UsageError(
                f"{self.hardware_compatibility!r} is not a hardware compatibility level.",
                hint=f"Use one of: {', '.join(HARDWARE_COMPATIBILITY)}.",
            )
        if self.exclude_lean_runtime and not self.version_compatible:
            raise UsageError(
                "--exclude-lean-runtime is for a version-compatible engine.",
                hint="Add --version-compatible.",
            )

    @property
    def changed(self) -> tuple[str, ...]:
        """The names of the options whose value is not the default."""
        return tuple(
            field.name
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        )
