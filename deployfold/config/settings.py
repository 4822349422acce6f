"""The settings of ``deployfold build``, as flags and build profiles give them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from deployfold.errors import UsageError

from .batches import parse_batches
from .engine import EngineOptions, HardwareCompatibility
from .precision import Precision
from .quantization import CalibrationSpec, GuardSpec, PreprocessSpec
from .shapes import parse_dynamic
from .spec import BuildSpec, InputSpec, Thresholds, parse_row_limits

Share = Annotated[float, Field(ge=0, le=1)]


SAMPLES = 32
"""Real inputs that are taken of ``--input-data``."""


class BuildSettings(BaseModel):
    """Every setting that a profile may hold; the names, meanings and defaults are the flags'."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=lambda name: name.replace("_", "-"),
        validate_by_name=True,
        validate_by_alias=True,
    )

    description: str = ""
    fp16: bool = False
    bf16: bool = False
    int8: bool = False
    fp8: bool = False
    int4: bool = False
    batch: str | None = None
    cold_start: bool = False
    int8_rest: Literal["fp16", "fp32"] = "fp16"
    residual_qdq: bool = False
    target: tuple[str, ...] = ("auto",)
    no_engine: bool = False
    io: Literal["fp32", "fp16"] = "fp32"
    workspace: Annotated[int, Field(ge=1)] | None = None
    timeout: Annotated[float, Field(ge=1)] = 1800.0
    torch_tensorrt: bool = False
    optimization_level: Annotated[int, Field(ge=0, le=5)] | None = None
    timing_cache: str | None = None
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    exclude_lean_runtime: bool = False
    weight_streaming: bool = False
    strip_plan: bool = False
    refit: bool = False
    dla_core: Annotated[int, Field(ge=0)] | None = None
    no_gpu_fallback: bool = False
    arch: str | None = None
    input: tuple[str, ...] = ()
    input_data: str | None = None
    dynamic_batch: str | None = None
    shapes: tuple[str, ...] = ()
    no_reparam: bool = False
    script: bool = False
    calib: str | None = None
    calib_samples: Annotated[int, Field(ge=2)] = 256
    labels: str | None = None
    held_back: Annotated[float, Field(gt=0, lt=1)] = 0.25
    preprocess: str = "auto"
    resize: Annotated[int, Field(ge=1)] | None = None
    crop: str | None = None
    mean: str | None = None
    std: str | None = None
    layout: Literal["nchw", "nhwc"] | None = None
    channels: Literal["rgb", "bgr"] | None = None
    min_sqnr: float = 20.0
    min_agreement: Share | None = None
    min_int8_share: Share = 0.5
    no_guard: bool = False
    threads: Annotated[int, Field(ge=1)] | None = None
    max_seconds: Annotated[float, Field(ge=0.1)] = 30.0
    no_measure: bool = False
    no_cuda_graph: bool = False
    seed: Annotated[int, Field(ge=0)] = 0
    min_speedup: Annotated[float, Field(ge=0)] | None = None
    max_diff: Annotated[float, Field(ge=0)] | None = None
    max_latency_ms: tuple[str, ...] = ()

    def spec(
        self,
        source: str,
        *,
        output: Path | None = None,
        allow_globals: tuple[str, ...] = (),
        trust: bool = False,
    ) -> BuildSpec:
        """What the pipeline is to do with the model ``source``.

        Raises:
            UsageError: a setting cannot be understood, or INT8 or FP8 has no calibration data.
        """
        if (self.int8 or self.fp8) and self.calib is None:
            raise UsageError(
                f"{'INT8' if self.int8 else 'FP8'} needs data to calibrate on.",
                hint="Give it with --calib pictures/ (or an .npz file); --calib random builds "
                "without, and every report then says «uncalibrated».",
            )
        wanted = [one for one in Precision if getattr(self, one.value, False)]
        calib = self.calib if self.int8 or self.fp8 or self.int4 else None
        return BuildSpec(
            source=source,
            output=output,
            arch=self.arch,
            inputs=InputSpec.parse(self.input) if self.input else None,
            dynamic=parse_dynamic(self.dynamic_batch, self.shapes),
            precisions=tuple(wanted),
            int8_rest=Precision(self.int8_rest),
            residual_qdq=self.residual_qdq,
            targets=self.target,
            allow_globals=allow_globals,
            trust=trust,
            batches=parse_batches(self.batch) if self.batch else (),
            cold_start=self.cold_start,
            reparam=not self.no_reparam,
            script=self.script,
            float_io=self.io == "fp32",
            threads=self.threads,
            max_seconds=self.max_seconds,
            workspace_mib=self.workspace,
            torch_tensorrt=self.torch_tensorrt,
            options=self._engine_options(),
            timeout=self.timeout,
            seed=self.seed,
            engine=not self.no_engine,
            measure=not self.no_measure,
            cuda_graph=not self.no_cuda_graph,
            thresholds=Thresholds(
                min_speedup=self.min_speedup,
                max_diff=self.max_diff,
                max_latency_ms=parse_row_limits(self.max_latency_ms),
            ),
            preprocess=self._preprocess(),
            input_data=self._data(self.input_data, SAMPLES, None if calib else self.labels),
            calibration=self._data(calib, self.calib_samples, self.labels),
            guard=GuardSpec(
                min_sqnr_db=self.min_sqnr,
                min_agreement=self.min_agreement,
                min_int8_share=self.min_int8_share,
                enabled=not self.no_guard,
            ),
        )

    def _engine_options(self) -> EngineOptions:
        return EngineOptions(
            optimization_level=self.optimization_level,
            timing_cache=Path(self.timing_cache) if self.timing_cache else None,
            hardware_compatibility=self.hardware_compatibility,
            version_compatible=self.version_compatible,
            exclude_lean_runtime=self.exclude_lean_runtime,
            weight_streaming=self.weight_streaming,
            strip_plan=self.strip_plan,
            refit=self.refit,
            dla_core=self.dla_core,
            gpu_fallback=not self.no_gpu_fallback,
        )

    def _data(self, source: str | None, samples: int, labels: str | None) -> CalibrationSpec | None:
        if source is None:
            return None
        return CalibrationSpec(
            source=source,
            samples=samples,
            held_back=self.held_back,
            seed=self.seed,
            labels=Path(labels) if labels else None,
            preprocess=self._preprocess(),
        )

    def _preprocess(self) -> PreprocessSpec:
        return PreprocessSpec(
            source=self.preprocess,
            resize=self.resize,
            crop=_size(self.crop) if self.crop else None,
            mean=_numbers("mean", self.mean) if self.mean else None,
            std=_numbers("std", self.std) if self.std else None,
            layout=self.layout,
            channels=self.channels,
        )


def keys() -> list[str]:
    """Every key of a build profile, in the order in which they are shown."""
    return [name.replace("_", "-") for name in BuildSettings.model_fields]


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if match is None or int(match[1]) == 0 or int(match[2] or 1) == 0:
        raise UsageError(f"--crop {text} is no size.", hint="Write it as 224 or 224x160 (H x W).")
    return int(match[1]), int(match[2] or match[1])


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"--{name} {text} is no list of numbers.",
            hint=f"Write it as --{name} 0.485,0.456,0.406.",
        ) from error
    if name == "std" and not all(number > 0 for number in numbers):
        raise UsageError(f"--std {text} holds a number that is not positive.")
    return numbers
