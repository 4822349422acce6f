from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from deployfold.compiling.trial_build import RELU, try_build
from deployfold.finish.trial_run import try_run
from deployfold.targets.machine import Gpu, Machine, detect

NO_GPU = Machine(tensorrt_rtx="1.7.1")


def test_its_network_is_one_relu() -> None:
    shape = [1, 4]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "self_test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    assert onnx.load_from_string(RELU) == made
    onnx.checker.check_model(onnx.load_from_string(RELU))


def test_tensorrt_rtx_builds_it() -> None:
    pytest.importorskip("tensorrt_rtx")
    assert try_build("tensorrt_rtx", NO_GPU) is None


@pytest.mark.skipif(detect().gpu is not None, reason="there is a GPU here")
def test_a_trial_build_that_needs_a_gpu_gives_the_reason() -> None:
    assert try_build("tensorrt", NO_GPU) == "no NVIDIA GPU here, and TensorRT builds only on one"
    failure = try_build("tensorrt_rtx", NO_GPU, then=try_run)
    assert "CUDA" in str(failure) or "driver" in str(failure)
    hopper = Machine(gpu=Gpu("NVIDIA H100", (9, 0)), tensorrt_rtx="1.7.1")
    assert try_build("tensorrt_rtx", hopper) is None, "for another GPU: it does not know this one"
    pretended = Machine(gpu=Gpu("NVIDIA L4", (8, 9)), tensorrt_rtx="1.7.1")
    assert try_build("tensorrt_rtx", pretended) is not None, "CURRENT is no GPU at all"
