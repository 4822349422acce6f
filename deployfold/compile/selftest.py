"""Whether a compiler works here: build a one-layer engine with it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from deployfold.errors import DeployfoldError
from deployfold.spec import Precision

from .compilers import PORTABLE_COMPUTE_CAPABILITIES
from .engine import compile_engine
from .machine import Machine
from .request import EngineRequest, Library


def self_test(library: Library, machine: Machine) -> str | None:
    """Why ``library`` cannot build an engine here; ``None`` if it can."""
    import onnx
    from onnx import helper

    shape = [1, 4]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "self_test",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    gpu = machine.gpu
    if library == "tensorrt" and gpu is None:
        return "it needs an NVIDIA GPU to build with"
    capabilities = PORTABLE_COMPUTE_CAPABILITIES[-1:] if gpu is None else (gpu.compute_capability,)
    request = EngineRequest(
        library, Precision.FP32, ("self-test",), capabilities, current_gpu=gpu is not None
    )
    with tempfile.TemporaryDirectory(prefix="deployfold-") as directory:
        path = Path(directory) / "self_test.onnx"
        onnx.save(model, path)
        try:
            compile_engine(path, path.with_suffix(".engine"), request, timeout=120)
        except DeployfoldError as error:
            return error.message
    return None
