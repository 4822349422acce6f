"""The layers of a built engine: the requested precision, and the actual one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from compile_nets import make_model
from onnx import TensorProto, helper

from deployfold.compiling.records import BuiltLayer, EngineListing, EngineRequest
from deployfold.compiling.tensorrt.listing import read_listing
from deployfold.compiling.tensorrt.network import ComputeLayer, Network
from deployfold.config.precision import Precision

DOWN, UP = "down_conv", "up_conv"


def quantised_net(path: Path, *, activations: bool) -> Path:
    """A convolution and a deconvolution behind it with int8 weights, and Q/DQ in front of both."""
    codes = np.random.default_rng(0).integers(-127, 127, (16, 16, 3, 3)).astype(np.int8)
    weights: dict[str, Any] = {
        "codes": codes, "steps": np.full(16, 0.01, np.float16), "step": np.float16(0.05),
        "zero": np.int8(0),
    }  # fmt: skip
    nodes, value = [helper.make_node("Relu", ["x"], ["r"], name="relu")], "r"
    for name, kind in ((DOWN, "Conv"), (UP, "ConvTranspose")):
        if activations:
            for op, made in (("QuantizeLinear", f"{value}.q"), ("DequantizeLinear", f"{value}.d")):
                nodes.append(helper.make_node(op, [value, "step", "zero"], [made], name=made))
                value = made
        axis = 0 if kind == "Conv" else 1
        nodes += [
            helper.make_node(
                "DequantizeLinear", ["codes", "steps"], [f"{name}.w"], axis=axis, name=f"{name}.w"
            ),
            helper.make_node(kind, [value, f"{name}.w"], [name], name=name, pads=[1, 1, 1, 1]),
        ]
        value = name
    shape = [1, 16, 16, 16]
    model = make_model(
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, shape)],
        [helper.make_tensor_value_info(UP, TensorProto.FLOAT16, shape)],
        weights,
    )
    onnx.save(model, path)
    return path


def listed(onnx_file: Path, precision: Precision) -> EngineListing:
    import tensorrt_rtx

    from deployfold.compiling.tensorrt.builder import build

    request = EngineRequest("tensorrt_rtx", precision, ("sm_89",), ((8, 9),))
    built = build(tensorrt_rtx, request, onnx_file, onnx_file.with_suffix(".e"), lambda *_: None)
    assert built.listing is not None
    return built.listing


def test_an_engine_tells_which_layers_compute_in_int8(tmp_path: Path) -> None:
    """TensorRT-RTX 1.7 computes a convolution in int8, and a deconvolution in fp16."""
    pytest.importorskip("tensorrt_rtx")
    found = listed(quantised_net(tmp_path / "net.onnx", activations=True), Precision.INT8)
    assert found.layers == (
        BuiltLayer(DOWN, "CONVOLUTION", "int8", "int8", "fp32"),
        BuiltLayer(UP, "DECONVOLUTION", "int8", "fp16", "fp16"),
    )
    assert found.kernels > len(found.layers)


def test_an_engine_tells_where_it_keeps_int8_weights(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    precision = Precision.INT8_WEIGHTS
    found = listed(quantised_net(tmp_path / "net.onnx", activations=False), precision)
    assert {(one.asked, one.got, one.writes) for one in found.layers} == {
        ("int8-weights", "int8-weights", "fp16")
    }
    assert found.conversions == 2, "each weight is dequantised by a kernel of its own"


def network(*layers: ComputeLayer) -> Network:
    kinds = {one.node: frozenset({one.kind}) for one in layers}
    return Network({}, {**kinds, "relu": frozenset({"ACTIVATION"})}, layers)


TENSORRT = """Layers:
Name: Reformatting CopyNode for x, LayerType: Reformat, Inputs: [ { Name: x, Location: Device, \
Dimensions: [1,3,8,8], Format/Datatype: Row major linear FP32 }], Outputs: [ { Name: y, Location: \
Device, Dimensions: [1,3,8,8], Format/Datatype: Thirty-two wide channel vectorized row major Int8 \
format }], TacticValue: 0x0, StreamId: 0, Metadata:
Name: a, b + relu, LayerType: CaskConvolution, Inputs: [ { Name: y, Location: Device, Dimensions: \
[1,3,8,8], Format/Datatype: Thirty-two wide channel vectorized row major Int8 format }], \
Outputs: [ { Name: z, Location: Device, Dimensions: [1,8,8,8], Format/Datatype: Channel major FP16 \
format where channel % 8 == 0 }], ParameterType: Convolution, StreamId: 0, Metadata: \
[ONNX Layer: a, b]\x1e[ONNX Layer: relu]
Name: wait, LayerType: wait, Inputs: [], Outputs: [], StreamId: 1, Metadata:
"""
"""In the words of TensorRT 10: TensorRT-RTX writes types otherwise."""


def test_the_words_of_tensorrt_are_read() -> None:
    layer = ComputeLayer("a, b", "CONVOLUTION", Precision.INT8)
    other = ComputeLayer("elsewhere", "CONVOLUTION", Precision.FP16)
    found = read_listing(TENSORRT, network(layer, other))
    assert found == EngineListing(
        kernels=2,
        conversions=1,
        layers=(
            BuiltLayer("a, b", "CONVOLUTION", "int8", "int8", "fp16"),
            BuiltLayer("elsewhere", "CONVOLUTION", "fp16"),
        ),
    )


@pytest.mark.parametrize("text", ["", "Layers:\n", "Engine Layer Information:\nLayer(Cask): a"])
def test_a_library_that_lists_nothing_gives_no_listing(text: str) -> None:
    assert read_listing(text, network()) is None
