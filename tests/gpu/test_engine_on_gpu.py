"""Builds an engine for the GPU in this machine, loads it, runs it and compares it.

Needs an NVIDIA GPU with its driver, and torch with CUDA to hold the tensors.
"""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from deployfold.compile import (
    EngineRequest,
    NoEngine,
    compile_engine,
    detect,
    plan_engines,
    profile_from_inputs,
)
from deployfold.numerics import sqnr_db
from deployfold.spec import DynamicBatch, InputSpec, Precision

MACHINE = detect()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(MACHINE.gpu is None, reason="needs an NVIDIA GPU with its driver"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs torch with CUDA"),
]


@pytest.fixture
def net(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 16, 3, stride=2),
        torch.nn.AdaptiveAvgPool2d(4),
    ).eval()
    path = tmp_path / "net.onnx"
    torch.onnx.export(
        module,
        (torch.randn(2, 3, 32, 32),),
        str(path),
        dynamo=False,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
    )
    return path


@pytest.mark.parametrize("batch", [1, 5])
def test_the_engine_for_this_gpu_loads_and_agrees_with_onnxruntime(
    net: Path, tmp_path: Path, batch: int
) -> None:
    (entry,) = plan_engines(["auto"], Precision.FP32, MACHINE)
    if isinstance(entry, NoEngine):
        pytest.skip(entry.reason)
    spec = dataclasses.replace(
        InputSpec.parse(["x=2x3x32x32"]), dynamic_batch=DynamicBatch(1, 2, 8)
    )
    request = dataclasses.replace(entry, profiles=(profile_from_inputs(spec),))
    assert request.verify
    made = compile_engine(net, tmp_path / "net.engine", request)

    data = np.random.default_rng(0).standard_normal((batch, 3, 32, 32)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(net), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": data})
    actual = _run(request, made.path, data, expected.shape)
    # TF32 keeps 10 bits of mantissa: 40 dB is far below its error and far above a wrong result.
    assert sqnr_db(expected, actual) > 40


def _run(
    request: EngineRequest, path: Path, data: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    trt = importlib.import_module(request.library)
    logger = trt.Logger(trt.Logger.WARNING)
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    assert engine is not None
    context = engine.create_execution_context()
    given = torch.from_numpy(data).cuda()
    result = torch.empty(shape, dtype=torch.float32, device="cuda")
    stream = torch.cuda.Stream()
    assert context.set_input_shape("x", tuple(data.shape))
    assert context.set_tensor_address("x", given.data_ptr())
    assert context.set_tensor_address("y", result.data_ptr())
    torch.cuda.synchronize()
    assert context.execute_async_v3(stream.cuda_stream)
    stream.synchronize()
    return result.cpu().numpy()
