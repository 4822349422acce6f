"""A trial build of an engine with one layer, which shows that an engine library works here."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from deployfold.config.precision import Precision
from deployfold.errors import DeployfoldError
from deployfold.targets.libraries import LIBRARIES, Library
from deployfold.targets.machine import Machine

from .compiler_choice import runs_here
from .records import EngineRequest
from .tensorrt.compile import compile_engine

RELU = bytes.fromhex(
    "08093a430a0c0a01781201792204"  # IR version 9; graph; node: x -> y by
    "52656c75"  # Relu
    "120973656c665f74657374"  # the graph's name: self_test
    "5a130a0178120e0a0c080112080a0208010a020804"  # input x: float32 of 1x4
    "62130a0179120e0a0c080112080a0208010a020804"  # output y: the same
    "42040a001011"  # opset 17
)
"""An ONNX with one Relu on a 1x4 float32 tensor, as bytes, because a device may lack ``onnx``."""


def try_build(
    library: Library, machine: Machine, *, then: Callable[[Path], None] | None = None
) -> str | None:
    """Build an engine from :data:`RELU`, for the GPU in the machine if the library supports it.

    Args:
        then: called with the engine before it is deleted, such as
            :func:`~deployfold.finish.trial_run.try_run`.

    Returns:
        The reason if the library cannot build here, or if ``then`` raised a ``DeployfoldError``;
        ``None`` on success.
    """
    gpu = machine.gpu
    if gpu is None and library == "tensorrt":
        return "no NVIDIA GPU here, and TensorRT builds only on one"
    here = gpu is not None and runs_here(library, machine)
    capability = gpu.compute_capability if gpu and here else LIBRARIES["tensorrt_rtx"].portable[-1]
    request = EngineRequest(library, Precision.FP32, ("trial",), (capability,), current_gpu=here)
    with tempfile.TemporaryDirectory(prefix="deployfold-") as directory:
        path = Path(directory) / "trial.onnx"
        engine = path.with_suffix(".engine")
        try:
            path.write_bytes(RELU)
            compile_engine(path, engine, request, timeout=120, checked=True)
            if then is not None:
                then(engine)
        except DeployfoldError as error:
            return error.message
    return None
