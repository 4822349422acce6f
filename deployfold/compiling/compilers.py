"""Which library builds an engine for a target, and the exact reason where none does."""

from __future__ import annotations

import re
from dataclasses import dataclass

from deployfold.config.spec import GpuTarget
from deployfold.targets.catalogue import sm_name
from deployfold.targets.machine import Machine

from .request import Library

RTX_COMPUTE_CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
"""The members of ``tensorrt_rtx.ComputeCapability`` as of 1.7; the worker asks the library."""

PORTABLE_COMPUTE_CAPABILITIES = ((8, 0), (8, 6), (8, 9), (12, 0))
"""What one portable engine serves. NVIDIA advises an engine of its own for Turing (sm_75):
https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/getting-started/support-matrix.html."""

_OLDEST = (7, 5)
_READY = "The lowered ONNX is ready."


@dataclass(frozen=True)
class Compiler:
    """The library that serves a target, or ``None``, and why, in one sentence."""

    library: Library | None
    reason: str


def compiler_for(target: GpuTarget, machine: Machine | None = None) -> Compiler:
    """Which library builds for ``target``.

    1. TensorRT where it is installed and that GPU is in the machine: it times its kernels there.
    2. TensorRT-RTX where it knows the SM, with or without a GPU.
    3. None, with the reason.

    Args:
        target: the GPU to build for.
        machine: this machine; without one, the answer is for a machine that has no GPU and does
            have ``tensorrt-rtx``.
    """
    here = machine if machine is not None else Machine(tensorrt_rtx="1.7")
    known = target.compute_capability in RTX_COMPUTE_CAPABILITIES
    if here.holds(target) and here.tensorrt is not None and _serves(here.tensorrt, target):
        return Compiler("tensorrt", f"TensorRT builds on the {_gpu_name(here)} in this machine.")
    if known and here.tensorrt_rtx is not None:
        return Compiler(
            "tensorrt_rtx", f"TensorRT-RTX builds for {target.sm}, which needs no GPU to build."
        )
    return Compiler(None, _no_compiler(target, here, known))


def runs_here(library: Library, machine: Machine) -> bool:
    """Whether there is a GPU in the machine that engines of ``library`` run on."""
    gpu = machine.gpu
    if gpu is None:
        return False
    return library == "tensorrt" or gpu.compute_capability in RTX_COMPUTE_CAPABILITIES


def _no_compiler(target: GpuTarget, machine: Machine, known: bool) -> str:
    if target.compute_capability < _OLDEST:
        # Xavier: https://docs.nvidia.com/deeplearning/tensorrt/archives/tensorrt-853/support-matrix/
        # Volta: https://docs.nvidia.com/deeplearning/tensorrt/latest/getting-started/release-notes-10/10.5.0.html
        last = (
            "JetPack 5, the last for Xavier, has TensorRT 8.5, and deployfold needs 10.3 or newer"
            if target.compute_capability == (7, 2)
            else "TensorRT 10.5 and newer serve compute capability 7.5 and up"
        )
        return f"No engine for {target.sm}: {last}. {_READY}"
    if known:
        return (
            f"No engine for {target.sm}: tensorrt-rtx, which builds for it without a GPU, is not "
            f"installed; pip install tensorrt-rtx. {_READY}"
        )
    if machine.holds(target):
        return (
            f"No engine for {target.sm}: TensorRT-RTX does not know it, and TensorRT, which could "
            f"build on the {_gpu_name(machine)} here, is not installed; "
            f"pip install 'deployfold[tensorrt]'. {_READY}"
        )
    return (
        f"No engine for {target.sm}: TensorRT-RTX does not know it, and TensorRT builds only on "
        "that GPU, which is not in this machine. Copy the build there and run deployfold finish."
    )


def _serves(version: str, target: GpuTarget) -> bool:
    match = re.match(r"(\d+)\.(\d+)", version)
    if target.compute_capability >= _OLDEST or match is None:
        return True
    return target.compute_capability >= (7, 0) and (int(match[1]), int(match[2])) < (10, 5)


def _gpu_name(machine: Machine) -> str:
    assert machine.gpu is not None  # only asked where the machine holds the target
    return f"{machine.gpu.name} ({sm_name(machine.gpu.compute_capability)})"
