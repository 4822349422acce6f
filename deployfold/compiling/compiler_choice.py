"""Chooses the library that builds an engine for a target, or gives the reason why none can."""

from __future__ import annotations

from dataclasses import dataclass

from deployfold.targets.catalogue import GpuTarget
from deployfold.targets.compute_capability import sm_name
from deployfold.targets.libraries import LIBRARIES, OLDEST, Library, tensorrt_builds_for
from deployfold.targets.machine import Gpu, Machine

_RTX = LIBRARIES["tensorrt_rtx"]
_XAVIER = (7, 2)


@dataclass(frozen=True)
class CompilerChoice:
    """The library that builds for a target, or ``None``, with the reason in one sentence."""

    library: Library | None
    reason: str


def compiler_for(target: GpuTarget, machine: Machine | None = None) -> CompilerChoice:
    """Choose the library that builds for ``target``.

    1. TensorRT, if it is installed and the machine has this GPU, on which it times kernels.
    2. TensorRT-RTX, if it supports the compute capability, with or without a GPU.
    3. No library, with the reason.

    Args:
        machine: this machine; by default one with ``tensorrt-rtx`` and without a GPU.
    """
    here = machine if machine is not None else Machine(tensorrt_rtx="1.7")
    gpu = here.gpu_for(target)
    if (
        gpu is not None
        and here.tensorrt is not None
        and tensorrt_builds_for(here.tensorrt, target.compute_capability)
    ):
        reason = f"TensorRT builds on the {_gpu_name(gpu)} in this machine."
        return CompilerChoice("tensorrt", reason)
    if target.compute_capability in _RTX.compute_capabilities and here.tensorrt_rtx is not None:
        reason = f"TensorRT-RTX builds for {target.sm} and needs no GPU for that."
        return CompilerChoice("tensorrt_rtx", reason)
    return CompilerChoice(None, no_engine(target.sm, *_why_none(target, here)))


def runs_here(library: Library, machine: Machine) -> bool:
    """Whether the GPU in the machine runs engines of ``library``."""
    if machine.gpu is None:
        return False
    return library == "tensorrt" or machine.gpu.compute_capability in _RTX.compute_capabilities


def no_engine(where: str, why: str, then: str = "The lowered ONNX is ready.") -> str:
    """The sentences for a missing engine: ``why`` has no full stop, ``then`` says what to do."""
    return f"No engine{f' for {where}' if where else ''}: {why}. {then}"


def _why_none(target: GpuTarget, machine: Machine) -> tuple[str, ...]:
    """The arguments ``why`` and, where it differs from the default, ``then`` of no_engine()."""
    capability = target.compute_capability
    if capability == _XAVIER:
        # https://docs.nvidia.com/deeplearning/tensorrt/archives/tensorrt-853/support-matrix/
        return (
            "JetPack 5, the last for Xavier, has TensorRT 8.5, and deployfold needs 10.3 or newer",
        )
    if capability < OLDEST:
        return ("TensorRT 10.5 and newer build for compute capability 7.5 and up",)
    if capability in _RTX.compute_capabilities:
        why = "TensorRT-RTX, which builds for it without a GPU, is not installed"
        return (f"{why}; {_RTX.install}",)
    unknown = "TensorRT-RTX does not know it"
    if (gpu := machine.gpu_for(target)) is not None:
        return (
            f"{unknown}, and TensorRT, which could build on the {_gpu_name(gpu)} here, is not "
            f"installed; {LIBRARIES['tensorrt'].install}",
        )
    return (
        f"{unknown}, and TensorRT builds only on that GPU, which is not in this machine",
        "Copy the build there and run deployfold finish.",
    )


def _gpu_name(gpu: Gpu) -> str:
    return f"{gpu.name} ({sm_name(gpu.compute_capability)})"
