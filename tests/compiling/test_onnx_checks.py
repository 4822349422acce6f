from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from compile_nets import MakeNet, make_model
from onnx import TensorProto, helper

from deployfold.compiling.tensorrt.onnx_checks import check_finite, check_onnx
from deployfold.errors import CompileError


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"not an onnx", bytes(range(256))])
def test_a_file_other_than_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(CompileError, match=r"bad\.onnx is not a valid ONNX"):
        check_onnx(path)


def test_a_graph_that_breaks_the_standard_is_refused(tmp_path: Path) -> None:
    model = make_model(
        [helper.make_node("Relu", ["nowhere"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        {},
    )
    onnx.save(model, tmp_path / "bad.onnx")
    with pytest.raises(CompileError, match="nowhere"):
        check_onnx(tmp_path / "bad.onnx")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"gone\.onnx"):
        check_onnx(tmp_path / "gone.onnx")


def test_a_good_net_passes(conv_net: MakeNet) -> None:
    check_onnx(conv_net())
    assert check_finite(conv_net()) == []


@pytest.mark.parametrize(
    ("value", "says"), [(math.inf, "+inf"), (-math.inf, "-inf"), (math.nan, "NaN")]
)
@pytest.mark.parametrize("external", [False, True])
def test_a_weight_that_is_not_finite_is_named(
    conv_net: MakeNet, value: float, says: str, external: bool
) -> None:
    path = conv_net(spoil=value, external=external)
    with pytest.raises(CompileError) as caught:
        check_finite(path)
    assert "'conv.weight'" in caught.value.message
    assert f"{says} in 1 of 216" in caught.value.message


def test_an_overflow_in_half_precision_is_seen(conv_net: MakeNet) -> None:
    path = conv_net(half=True)
    model = onnx.load(path)
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "conv.weight")
    values = onnx.numpy_helper.to_array(weight).copy()
    assert values.dtype == np.float16
    values[0] = np.inf
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "conv.weight"))
    onnx.save(model, path)
    with pytest.raises(CompileError, match=r"conv\.weight"):
        check_finite(path)


def masked(tmp_path: Path, mask: np.ndarray) -> Path:
    info = helper.make_tensor_value_info
    model = make_model(
        [helper.make_node("Add", ["x", "mask"], ["s"]), helper.make_node("Softmax", ["s"], ["y"])],
        [info("x", TensorProto.FLOAT, [4, 4])],
        [info("y", TensorProto.FLOAT, [4, 4])],
        {"mask": mask.astype(np.float32)},
    )
    onnx.save(model, tmp_path / "masked.onnx")
    return tmp_path / "masked.onnx"


def test_an_attention_mask_is_left_and_noted(tmp_path: Path) -> None:
    path = masked(tmp_path, np.triu(np.full((4, 4), -np.inf), k=1))
    assert check_finite(path) == ["The constant 'mask' holds -inf."]


def test_positive_infinity_in_a_tensor_is_an_error_anywhere(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="'mask'"):
        check_finite(masked(tmp_path, np.array([1.0, 2.0, np.inf, 0.0])))


def test_nan_is_an_error_in_a_constant_node_of_a_branch(tmp_path: Path) -> None:
    def branch(name: str, value: float) -> onnx.GraphProto:
        tensor = helper.make_tensor("value", TensorProto.FLOAT, [1], [value])
        node = helper.make_node("Constant", [], [name], value=tensor)
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
        return helper.make_graph([node], name, [], [output])

    model = make_model(
        [
            helper.make_node(
                "If",
                ["x"],
                ["y"],
                then_branch=branch("good", 1.0),
                else_branch=branch("bad", math.nan),
            )
        ],
        [helper.make_tensor_value_info("x", TensorProto.BOOL, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        {},
    )
    onnx.save(model, tmp_path / "if.onnx")
    with pytest.raises(CompileError, match="'bad'"):
        check_finite(tmp_path / "if.onnx")
