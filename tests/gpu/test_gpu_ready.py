"""The network and the requests of the GPU tests are valid, checked without a GPU."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from gpu_nets import SPEC, SQNR, GpuNet, make_data, make_two_inputs, only, request_on

from deployfold.compiling.records import EngineRequest
from deployfold.compiling.tensorrt.compile import compile_engine
from deployfold.config.precision import Precision
from deployfold.targets.machine import Gpu, Machine

L4 = Machine(gpu=Gpu("NVIDIA L4", (8, 9)), tensorrt="11.4.0", tensorrt_rtx="1.7.1")


OFTEN = (Precision.FP32, Precision.FP16, Precision.INT8, Precision.FP8)
"""The precisions that every run of the tests builds; a build takes more than a second."""


@pytest.mark.parametrize(
    "precision", [pytest.param(one, marks=[pytest.mark.slow] * (one not in OFTEN)) for one in SQNR]
)
def test_the_network_builds_with_its_request(
    gpu_net: GpuNet, tmp_path: Path, precision: Precision
) -> None:
    request = request_on(only(L4, "tensorrt_rtx"), precision)
    assert isinstance(request, EngineRequest)
    assert (request.library, request.current_gpu, request.verify) == ("tensorrt_rtx", True, True)
    elsewhere = dataclasses.replace(request, current_gpu=False, verify=False)
    made = compile_engine(gpu_net.onnx[precision], tmp_path / "net.engine", elsewhere)
    assert made.profiles[0][0].max[0] == SPEC.profiles[0][0].max[0]


def test_both_libraries_can_be_requested() -> None:
    for library in ("tensorrt", "tensorrt_rtx"):
        request = request_on(only(L4, library), Precision.FP32)
        assert isinstance(request, EngineRequest)
        assert request.library == library


@pytest.mark.parametrize("precision", list(SQNR))
def test_a_lowered_network_is_near_enough_itself(gpu_net: GpuNet, precision: Precision) -> None:
    """A larger error would make the GPU tests reject a correct engine."""
    assert gpu_net.lowered_db[precision] > SQNR[precision] + 3


def test_the_network_with_two_inputs_builds_and_is_its_module(
    gpu_net: GpuNet, tmp_path: Path
) -> None:
    onnx, inputs, expected = make_two_inputs(tmp_path)
    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    for value, found in zip(expected, session.run(None, inputs), strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-5)
    request = request_on(only(L4, "tensorrt_rtx"), Precision.FP32)
    assert isinstance(request, EngineRequest)
    elsewhere = dataclasses.replace(request, profiles=(), current_gpu=False, verify=False)
    made = compile_engine(onnx, tmp_path / "two.engine", elsewhere)
    tensors = json.loads(made.sidecar.read_text())["tensors"]
    dtypes = {tensor["name"]: tensor["dtype"] for tensor in tensors}
    assert dtypes == {"x": "float32", "index": "int64", "sum": "float32", "mask": "bool"}


def test_the_expected_outputs_are_the_modules(gpu_net: GpuNet) -> None:
    import torch

    data = make_data(5)
    with torch.inference_mode():
        actual = gpu_net.module(torch.from_numpy(data)).numpy()
    np.testing.assert_allclose(gpu_net.expected(data), actual, rtol=1e-3, atol=1e-5)
    assert torch.export.load(gpu_net.program).module()(torch.from_numpy(data)).shape == (5, 10)
