"""The tensors that become BF16, those that stay in fp32, and the rounding error of both."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from lower_toys import FLOAT, HALF, export_module, node, node_types, normal, types, write_graph
from lowering_calls import lower_bf16
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from deployfold.compiling.records import EngineRequest
from deployfold.config.precision import Precision
from deployfold.errors import CompileError, ExportError
from deployfold.lowering.cast.formats import BF16 as FORM
from deployfold.lowering.opset import raise_opset

BF16 = TensorProto.BFLOAT16


def rounded(array):
    return np.asarray(array, np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)


def lower(source, tmp_path, *inputs):
    return lower_bf16(source, tmp_path / "bf16.onnx", inputs=[{"x": one} for one in inputs])


def test_all_that_can_is_bfloat16_between_float32_ends(tmp_path):
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    x = torch.randn(2, 3, 8, 8)
    source = export_module(net.eval(), (x,), tmp_path / "net.onnx")
    key = onnx.load(source).graph.input[0].name
    artifact = lower_bf16(source, tmp_path / "bf16.onnx", inputs=[{key: x.numpy()}])
    model = onnx.load(artifact.path)
    onnx.checker.check_model(model, full_check=True)
    ends = [*model.graph.input, *model.graph.output]
    assert {value.type.tensor_type.elem_type for value in ends} == {FLOAT}
    found = node_types(artifact.path)
    assert sum(kind == FLOAT for kind in found.values()) == 1, "the cast at the end"
    floats = [t for t in model.graph.initializer if t.data_type in (FLOAT, BF16)]
    assert {tensor.data_type for tensor in floats} == {BF16}
    assert artifact.kept == ()
    assert 35 < artifact.sqnr_db < 60, "8 bits leave about 50 dB of one tensor"
    assert {m.key: m.value for m in model.metadata_props}["deployfold.precision"] == "bf16"


def test_the_accuracy_is_that_of_rounding_every_tensor(tmp_path):
    w, x = normal((4, 4), 1), normal((3, 4), 2)
    nodes = [node("MatMul", "x w", "a"), node("Exp", "a", "b"), node("Add", "b w0", "y")]
    source = write_graph(tmp_path / "net.onnx", nodes, weights={"w": w, "w0": w[0] * 1e-6})
    artifact = lower(source, tmp_path, x)
    expected = rounded(
        rounded(np.exp(rounded(rounded(x) @ rounded(w)))) + rounded(w[0] * np.float32(1e-6))
    )
    exact = np.exp(x @ w) + w[0] * np.float32(1e-6)
    assert artifact.max_abs_diff == pytest.approx(float(np.abs(expected - exact).max()), rel=1e-3)


def test_bf16_holds_values_beyond_fp16(tmp_path):
    nodes = [node("Mul", "x large", "a"), node("Mul", "a small", "y")]
    weights = {"large": np.float32(1e30), "small": np.float32(1e-30)}
    source = write_graph(tmp_path / "net.onnx", nodes, weights=weights)
    artifact = lower(source, tmp_path, normal((2, 4)))
    assert artifact.kept == ()
    assert artifact.sqnr_db > 40


def test_the_largest_float32_of_a_mask_does_not_become_infinite(tmp_path):
    mask = np.array([0, np.finfo(np.float32).min, -np.inf, 0], np.float32)
    nodes = [node("Add", "x mask", "a"), node("Softmax", "a", "y", axis=-1)]
    source = write_graph(tmp_path / "net.onnx", nodes, weights={"mask": mask})
    artifact = lower(source, tmp_path, normal((2, 4)))
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(artifact.path).graph.initializer}
    values = stored["mask"].astype(np.float32)
    assert np.isfinite(values[1])
    assert values[1] < -3.3e38
    assert values[2] == -np.inf
    assert artifact.sqnr_db > 30


def test_operators_without_bfloat16_stay_and_say_why(tmp_path):
    nodes = [
        node("HardSwish", "x", "a"),
        node("Relu", "a", "b"),
        node("Celu", "b", "c"),
        node("Add", "c x", "y"),
    ]
    source = write_graph(tmp_path / "net.onnx", nodes)
    artifact = lower(source, tmp_path, normal((2, 4)))
    reasons = {kept.name: kept.reason for kept in artifact.kept}
    assert reasons == {
        "n_a": "TensorRT-RTX does not build HardSwish in bf16",
        "n_c": "ONNX has no Celu in bf16",
    }
    found = node_types(artifact.path)
    assert (found["n_a"], found["n_b"], found["n_c"], found["n_y"]) == (FLOAT, BF16, FLOAT, BF16)


@pytest.mark.parametrize("op_type", sorted(FORM.wide))
def test_tensorrt_rtx_builds_such_an_operator_in_fp32_and_not_in_bf16(op_type, tmp_path):
    """A failure means that a newer TensorRT-RTX has the operator in bf16. Remove it from the list
    then.
    """
    pytest.importorskip("tensorrt_rtx")
    from deployfold.compiling.tensorrt.builder import build
    from deployfold.targets.libraries import import_library

    weights = {"ConvTranspose": {"w": (8, 4, 2, 2)}, "GRU": {"w": (1, 24, 8), "r": (1, 24, 8)}}
    options = {"LpPool": {"kernel_shape": [2, 2]}, "GRU": {"hidden_size": 8}}.get(op_type, {})
    shapes = weights.get(op_type, {})
    trt = import_library("tensorrt_rtx", CompileError)

    def attempt(precision, kind, dtype):
        nodes = [
            helper.make_node("Cast", ["x"], ["a"], to=kind),
            helper.make_node(op_type, ["a", *shapes], ["b"], **options),
            helper.make_node("Cast", ["b"], ["y"], to=FLOAT),
        ]
        shape = [4, 2, 8] if op_type == "GRU" else [2, 8, 8, 8]
        graph = helper.make_graph(
            nodes, "wide", [helper.make_tensor_value_info("x", FLOAT, shape)],
            [helper.make_tensor_value_info("y", FLOAT, None)],
            [numpy_helper.from_array(np.ones(s, dtype), n) for n, s in shapes.items()],
        )  # fmt: skip
        path, opsets = tmp_path / "wide.onnx", [helper.make_opsetid("", FORM.opset)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(path))
        request = EngineRequest("tensorrt_rtx", precision, ("l4",), ((8, 9),))
        build(trt, request, path, tmp_path / "wide.engine", lambda *_: None)

    attempt(Precision.FP32, FLOAT, np.float32)
    with pytest.raises(CompileError):
        attempt(Precision.BF16, BF16, ml_dtypes.bfloat16)


def test_a_weight_that_is_read_in_both_types_is_there_twice(tmp_path):
    nodes = [node("Mul", "x w", "a"), node("Max", "a w", "b"), node("HardSwish", "b", "c")]
    nodes += [node("Mul", "c w", "d"), node("Celu", "w", "e"), node("Add", "d e", "y")]
    source = write_graph(tmp_path / "net.onnx", nodes, weights={"w": normal((4,), 5)})
    artifact = lower(source, tmp_path, normal((2, 4)))
    found = types(artifact.path)
    assert found["w"] == FLOAT
    assert found["w__bf16"] == BF16


def test_control_flow_is_kept_whole_and_reads_float32(tmp_path):
    def branch(op):
        inner = [helper.make_node(op, ["a"], ["out"])]
        out = helper.make_tensor_value_info("out", FLOAT, None)
        return helper.make_graph(inner, op, [], [out])

    nodes = [
        node("Mul", "x x", "a"),
        node("ReduceSum", "a", "s", keepdims=0),
        node("Greater", "s zero", "flag"),
        node("If", "flag", "b", then_branch=branch("Neg"), else_branch=branch("Abs")),
        node("Relu", "b", "y"),
    ]
    source = write_graph(tmp_path / "net.onnx", nodes, weights={"zero": np.float32(0)})
    artifact = lower(source, tmp_path, normal((2, 4)))
    assert [kept.reason for kept in artifact.kept] == ["control flow is kept whole"]
    assert node_types(artifact.path)["n_a"] == BF16


def test_an_output_that_is_read_again_keeps_its_name_and_type(tmp_path):
    nodes = [node("Mul", "x x", "y"), node("Relu", "y", "z"), node("Neg", "z", "y2")]
    source = write_graph(tmp_path / "net.onnx", nodes, outputs=("y", "y2"))
    artifact = lower(source, tmp_path, normal((2, 4)))
    output = [(v.name, v.type.tensor_type.elem_type) for v in onnx.load(artifact.path).graph.output]
    assert output == [("y", FLOAT), ("y2", FLOAT)]


def test_a_scale_that_must_be_float32_stays(tmp_path):
    nodes = [node("Resize", "x  scales", "y", mode="nearest")]
    nodes[0].input[:] = ["x", "", "scales"]
    scales = np.array([1, 1], np.float32)
    source = write_graph(tmp_path / "net.onnx", nodes, weights={"scales": scales})
    artifact = lower(source, tmp_path, normal((2, 4)))
    assert types(artifact.path)["scales"] == FLOAT
    assert node_types(artifact.path)["n_y"] == BF16


def test_another_float_type_is_refused_and_bfloat16_taken(tmp_path):
    source = write_graph(tmp_path / "half.onnx", [node("Relu", "x", "y")], dtype=HALF)
    with pytest.raises(ExportError, match="computes in float16, and bf16"):
        lower(source, tmp_path, normal((2, 4)).astype(np.float16))
    source = write_graph(tmp_path / "brain.onnx", [node("Relu", "x", "y")], dtype=BF16)
    assert "taken as it is" in lower(source, tmp_path, normal((2, 4))).notes[0]


def test_a_newer_opset_is_reached_by_conversion(tmp_path):
    """ReduceMean has its axes as an input since opset 18."""
    one, axes = helper.make_tensor_value_info("x", FLOAT, [2, 4]), {"axes": [1], "keepdims": 0}
    source, graph = tmp_path / "net.onnx", helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["y"], **axes)], "old", [one],
        [helper.make_tensor_value_info("y", FLOAT, [2])],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(source))
    artifact = lower(source, tmp_path, normal((2, 4)))
    assert artifact.sqnr_db > 35
    assert onnx.load(artifact.path).opset_import[0].version == 22
    assert raise_opset(ir.load(artifact.path), 19).opset_imports[""] == 22, "a newer one stays"
