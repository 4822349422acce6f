"""Whether a compiler works here: build a one-layer engine with it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from deployfold.config.precision import Precision
from deployfold.errors import DeployfoldError
from deployfold.targets.machine import Machine

from .compilers import PORTABLE_COMPUTE_CAPABILITIES, runs_here
from .engine import compile_engine
from .request import EngineRequest, Library

RELU = bytes.fromhex(
    "08093a430a0c0a01781201792204"  # IR version 9; graph; node: x -> y by
    "52656c75"  # Relu
    "120973656c665f74657374"  # the graph's name: self_test
    "5a130a0178120e0a0c080112080a0208010a020804"  # input x: float32 of 1x4
    "62130a0179120e0a0c080112080a0208010a020804"  # output y: the same
    "42040a001011"  # opset 17
)
"""An ONNX of one Relu, 1x4 float32 to the same: a device may have no package onnx to write one."""


def self_test(
    library: Library, machine: Machine, *, then: Callable[[Path], None] | None = None
) -> str | None:
    """Why ``library`` cannot build an engine of :data:`RELU` here; ``None`` if it can.

    It is for the GPU in the machine where the library serves that, else for another.

    Args:
        then: is given the engine; what it raises of deployfold's errors is the answer, too.
    """
    gpu = machine.gpu
    if gpu is None and library == "tensorrt":
        return "it needs an NVIDIA GPU to build with"
    here = gpu is not None and runs_here(library, machine)
    capabilities = (gpu.compute_capability,) if gpu and here else PORTABLE_COMPUTE_CAPABILITIES[-1:]
    request = EngineRequest(library, Precision.FP32, ("self-test",), capabilities, current_gpu=here)
    with tempfile.TemporaryDirectory(prefix="deployfold-") as directory:
        path = Path(directory) / "self_test.onnx"
        engine = path.with_suffix(".engine")
        try:
            path.write_bytes(RELU)
            compile_engine(path, engine, request, timeout=120, checked=True)
            if then is not None:
                then(engine)
        except DeployfoldError as error:
            return error.message
    return None
