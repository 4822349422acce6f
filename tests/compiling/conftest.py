"""Tiny ONNX networks, built node by node, so that a test knows every tensor in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from compile_nets import MakeNet, make_model
from onnx import TensorProto, helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from deployfold.compiling.records import EngineRequest
from deployfold.config.precision import Precision


@pytest.fixture
def conv_net(tmp_path: Path) -> MakeNet:
    """Write conv → relu → global pool → gemm, 1x3x16x16 to 1x5; ``batch`` may be a name."""

    def make(
        name: str = "net.onnx",
        *,
        batch: int | str = 1,
        half: bool = False,
        spoil: float | None = None,
        external: bool = False,
    ) -> Path:
        rng = np.random.default_rng(0)
        weights = {
            "conv.weight": rng.standard_normal((8, 3, 3, 3)).astype(np.float32),
            "conv.bias": rng.standard_normal(8).astype(np.float32),
            "fc.weight": rng.standard_normal((5, 8)).astype(np.float32),
        }
        if spoil is not None:
            weights["conv.weight"][1, 2, 0, 0] = spoil
        nodes = [
            helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("Gemm", ["f", "fc.weight"], ["y"], transB=1),
        ]
        model = make_model(
            nodes,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 16, 16])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 5])],
            weights,
        )
        if half:
            # The converter appends its casts at the end, out of order.
            converted = OnnxModel(convert_float_to_float16(model, keep_io_types=True))
            converted.topological_sort()
            model = converted.model
        path = tmp_path / name
        if external:
            onnx.save(
                model, path, save_as_external_data=True, location=f"{name}.data", size_threshold=0
            )
        else:
            onnx.save(model, path)
        return path

    return make


@pytest.fixture
def int8_net(tmp_path: Path) -> Path:
    """Write x → Q → DQ → conv with an int8 weight, 1x8x16x16 to 1x8x16x16."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.integers(-127, 127, (8, 8, 3, 3)).astype(np.int8),
        "x_scale": np.array(0.02, np.float32),
        "x_zero": np.array(0, np.int8),
        "w_scale": np.full(8, 0.01, np.float32),
        "w_zero": np.zeros(8, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "x_scale", "x_zero"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wd"], axis=0),
        helper.make_node("Conv", ["xd", "wd"], ["y"], pads=[1, 1, 1, 1]),
    ]
    shape = [1, 8, 16, 16]
    model = make_model(
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        weights,
    )
    path = tmp_path / "int8.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture
def request_for() -> Callable[..., EngineRequest]:
    """Make a TensorRT-RTX request for sm_89, or for what is given."""

    def make(precision: Precision = Precision.FP32, *sms: tuple[int, int]) -> EngineRequest:
        return EngineRequest(
            library="tensorrt_rtx",
            precision=precision,
            targets=("test",),
            compute_capabilities=sms or ((8, 9),),
        )

    return make
