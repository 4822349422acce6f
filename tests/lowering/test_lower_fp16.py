from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import lower_toys as toys
import numpy as np
import onnx
import pytest
import torch
from lower_toys import FLOAT, HALF, node
from lowering_calls import lower_fp16
from onnx import helper
from torchvision_nets import torchvision_model

from deployfold.config.precision import Precision
from deployfold.errors import ExportError
from deployfold.exporting.session import open_session, run_session
from deployfold.lowering.result import LoweredModel
from deployfold.util.onnx_files import data_path


def lower(source: Path, *arrays: np.ndarray, **options: object) -> LoweredModel:
    path = source.with_name("fp16.onnx")
    artifact = lower_fp16(source, path, inputs=[{"x": array} for array in arrays], **options)
    onnx.checker.check_model(str(path), full_check=True)
    assert not [file for file in path.parent.iterdir() if file.name.startswith(".tmp")]
    return artifact


def kept(artifact: LoweredModel) -> dict[str, str]:
    return {entry.name: entry.reason for entry in artifact.kept}


def types_of(artifact: LoweredModel) -> dict[str, int]:
    return toys.types(artifact.path)


def run(path: Path, array: np.ndarray) -> np.ndarray:
    return run_session(open_session(path), {"x": array})[0]


def small_net() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 5)
    ).eval()


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    inputs = (torch.randn(1, 3, 8, 8),)

    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_net()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

    path = toys.export_module(Named().eval(), inputs, tmp_path / "fp32.onnx")
    model = onnx.load(str(path))
    model.graph.node[0].input[0] = model.graph.input[0].name = "x"
    onnx.save(model, str(path))
    return path


def test_an_ordinary_model_is_all_float16(exported: Path) -> None:
    x = toys.normal((1, 3, 8, 8))
    artifact = lower(exported, x)
    assert artifact.precision is Precision.FP16
    assert artifact.kept == ()
    assert artifact.notes == ()
    assert 50 < artifact.sqnr_db < 80
    assert 0 < artifact.max_abs_diff < 1e-2
    assert artifact.bytes == artifact.path.stat().st_size < exported.stat().st_size * 0.65
    types = types_of(artifact)
    assert types["x"] == types["output"] == FLOAT
    assert {types[t.name] for t in onnx.load(str(artifact.path)).graph.initializer} == {HALF}
    assert np.abs(run(artifact.path, x) - run(exported, x)).max() < 1e-2
    metadata = {p.key: p.value for p in onnx.load(str(artifact.path)).metadata_props}
    assert metadata == {"k": "v", "deployfold.precision": "fp16"}


def test_float16_inputs_and_outputs(exported: Path) -> None:
    artifact = lower(exported, toys.normal((1, 3, 8, 8)), float_io=False)
    types = types_of(artifact)
    assert types["x"] == types["output"] == HALF
    assert "Cast" not in {n.op_type for n in onnx.load(str(artifact.path)).graph.node}
    assert 50 < artifact.sqnr_db < 80
    assert run(artifact.path, toys.normal((1, 3, 8, 8))).dtype == np.float16


def test_a_weight_beyond_float16_stays(tmp_path: Path) -> None:
    weights = {
        "big": np.full((4, 4), 1e5, np.float32),
        "plain": np.eye(4, dtype=np.float32),
        "down": np.full((4, 4), 1e-3, np.float32),
    }
    nodes = [node("MatMul", "x plain", "a"), node("MatMul", "a big", "b")]
    nodes.append(node("MatMul", "b down", "y"))
    source = toys.write_graph(tmp_path / "fp32.onnx", nodes, weights=weights)
    artifact = lower(source, np.full((2, 4), 1e-2, np.float32))
    assert kept(artifact) == {
        "n_b": "its weight 'big' reaches 1e+05, beyond float16's 65504",
    }
    types = types_of(artifact)
    assert (types["big"], types["plain"], types["down"]) == (FLOAT, HALF, HALF)
    np.testing.assert_array_equal(
        onnx.numpy_helper.to_array(
            next(t for t in onnx.load(str(artifact.path)).graph.initializer if t.name == "big")
        ),
        weights["big"],
    )
    assert artifact.sqnr_db > 50


def test_a_weight_shared_with_a_kept_node_is_not_clamped(tmp_path: Path) -> None:
    # `scale` is harmless for the first Mul; the second is kept because its output overflows.
    weights = {"scale": np.float32(300.03), "small": np.float32(1e-5)}
    nodes = [
        node("Mul", "x scale", "a"),
        node("Mul", "a scale", "b"),
        node("Mul", "b small", "y"),
    ]
    source = toys.write_graph(tmp_path / "fp32.onnx", nodes, weights=weights)
    artifact = lower(source, np.full((1, 4), 10, np.float32))
    assert set(kept(artifact)) == {"n_b", "n_y"}
    types = types_of(artifact)
    assert (types["scale__fp16"], types["scale"]) == (HALF, FLOAT)


def test_an_activation_beyond_float16_never_is_float16(tmp_path: Path) -> None:
    weights = {"up": np.float32(1000), "down": np.float32(0.001), "one": np.float32(1)}
    nodes = [
        node("Mul", "x one", "a"),
        node("Mul", "a up", "big"),
        node("Relu", "big", "still"),
        node("Mul", "still down", "b"),
        node("Mul", "b one", "y"),
    ]
    source = toys.write_graph(tmp_path / "fp32.onnx", nodes, weights=weights)
    artifact = lower(source, np.full((1, 4), 100, np.float32))
    reasons = kept(artifact)
    assert list(reasons) == ["n_big", "n_still", "n_b"]
    assert reasons["n_big"] == "its output 'big' reaches 1e+05, beyond float16's 65504"
    assert reasons["n_b"] == "its input 'still' reaches 1e+05, beyond float16's 65504"
    graph = onnx.load(str(artifact.path)).graph
    types = types_of(artifact)
    between = [n.output[0] for n in graph.node if n.name in ("n_big", "n_still")]
    assert {types[name] for name in between} == {FLOAT}
    casts = [n for n in graph.node if n.op_type == "Cast"]
    assert not [n for n in casts if n.input[0] in between], "no cast between two kept nodes"
    assert artifact.sqnr_db > 50


@pytest.mark.parametrize("value", [1e5, -1e5])
def test_large_inputs_and_outputs_need_float32_io(tmp_path: Path, value: float) -> None:
    nodes = [node("Mul", "x small", "a"), node("Mul", "a large", "y")]
    weights = {"small": np.float32(0.5), "large": np.float32(2)}
    source = toys.write_graph(tmp_path / "fp32.onnx", nodes, weights=weights)
    x = np.full((1, 4), value, np.float32)
    artifact = lower(source, x)
    assert artifact.sqnr_db > 50
    np.testing.assert_allclose(run(artifact.path, x), x, rtol=1e-3)
    with pytest.raises(ExportError, match="input 'x' reaches 1e\\+05") as caught:
        lower(source, x, float_io=False)
    assert "--io fp16" in str(caught.value.hint)


def test_an_epsilon_too_small_keeps_what_reads_the_sum(tmp_path: Path) -> None:
    weights = {"eps": np.float32(1e-12), "two": np.float32(2)}
    nodes = [
        node("Mul", "x two", "scaled"),
        node("Mul", "scaled scaled", "square"),
        node("Add", "square eps", "sum"),
        node("Sqrt", "sum", "root"),
        node("Div", "scaled root", "y"),
    ]
    source = toys.write_graph(tmp_path / "fp32.onnx", nodes, weights=weights)
    artifact = lower(source, toys.normal((2, 4)))  # no zero is seen here
    reasons = kept(artifact)
    assert "'eps' is at most 1e-12, too small for float16" in reasons["n_sum"]
    assert reasons["n_root"] == "its input 'sum' may be too small for float16"
    assert "n_scaled" not in reasons
    zero = np.zeros((1, 4), np.float32)
    np.testing.assert_array_equal(run(artifact.path, zero), zero)


def test_tiny_weights_and_activations_stay(tmp_path: Path) -> None:
    weights = {"tiny": np.full(4, 1e-9, np.float32), "huge": np.float32(3e4)}
    nodes = [node("Mul", "x tiny", "a"), node("Mul", "a huge", "b"), node("Mul", "b huge", "y")]
    source = toys.write_graph(tmp_path / "fp32.onnx", nodes, weights=weights)
    artifact = lower(source, toys.normal((2, 4)))
    assert {"n_a", "n_b"} <= set(kept(artifact))
    assert artifact.sqnr_db > 50


def test_nodes_are_kept_until_nothing_is_lost(tmp_path: Path) -> None:
    # Every tensor is well inside float16's range; 1 + 2e-4 rounds to 1, and 1 / 0 follows.
    nodes = [
        node("Add", "x step", "up"),
        node("Sub", "up x", "difference"),
        node("Mul", "difference difference", "square"),
        node("Mul", "square large", "s"),
        node("Reciprocal", "s", "y"),
    ]
    weights = {"step": np.float32(2e-4), "large": np.float32(1e4)}
    source = toys.write_graph(tmp_path / "fp32.onnx", nodes, weights=weights)
    artifact = lower(source, np.full((1, 4), 1, np.float32))
    reasons = kept(artifact)
    assert reasons["n_up"] == "float16 gives infinities or NaN in 'y'"
    assert artifact.sqnr_db > 30


def test_the_sqnr_is_that_of_rounded_tensors(tmp_path: Path) -> None:
    # ONNX Runtime's CPU provider would compute this chain in float32, and report no error at all.
    weights = {"two": np.float32(2), "half": np.float32(0.5)}
    nodes = [node("Sqrt", "x", "a"), node("Mul", "a two", "b"), node("Mul", "b half", "y")]
    source = toys.write_graph(tmp_path / "fp32.onnx", nodes, weights=weights)
    x = np.abs(toys.normal((64, 4))).astype(np.float16).astype(np.float32)
    artifact = lower(source, x)
    expected = np.sqrt(x)
    rounded = expected.astype(np.float16).astype(np.float32)
    noise = np.square((expected - rounded).astype(float)).sum()
    exact = 10 * math.log10(np.square(expected.astype(float)).sum() / noise)
    assert artifact.sqnr_db == pytest.approx(exact, abs=0.01)
    assert artifact.max_abs_diff == pytest.approx(np.abs(expected - rounded).max(), rel=1e-3)


def test_values_near_the_limit_are_noted(tmp_path: Path) -> None:
    nodes = [node("Mul", "x up", "a"), node("Mul", "a down", "y")]
    weights = {"up": np.float32(60), "down": np.float32(0.01)}
    source = toys.write_graph(tmp_path / "fp32.onnx", nodes, weights=weights)
    artifact = lower(source, np.full((1, 4), 100, np.float32))
    (note,) = artifact.notes
    assert "'a' reached 6e+03" in note
    assert artifact.head_room is not None
    assert artifact.head_room.tensor == "a"
    assert artifact.head_room.factor == pytest.approx(65504 / 6000)
    assert "inputs 10.9 times as large still fit float16" in artifact.about


def test_every_input_is_looked_at(tmp_path: Path) -> None:
    nodes = [node("Mul", "x up", "a"), node("Mul", "a down", "y")]
    weights = {"up": np.float32(1000), "down": np.float32(0.001)}
    source = toys.write_graph(tmp_path / "fp32.onnx", nodes, weights=weights)
    ones = np.ones((1, 4), np.float32)
    assert lower(source, ones, ones).kept == ()
    assert set(kept(lower(source, ones, 100 * ones))) == {"n_a", "n_y"}


def test_operations_that_the_converter_keeps_are_listed(tmp_path: Path) -> None:
    nodes = [node("Max", "x zero", "a"), node("Mul", "a two", "y")]
    weights = {"zero": np.float32(0), "two": np.float32(2)}
    source = toys.write_graph(tmp_path / "fp32.onnx", nodes, weights=weights)
    artifact = lower(source, toys.normal((2, 4)))
    assert kept(artifact) == {"n_a": "the converter keeps Max in fp32"}


def test_constant_nodes_are_weights_too(tmp_path: Path) -> None:
    value = onnx.numpy_helper.from_array(np.full(4, 1e5, np.float32))
    nodes = [
        node("Constant", "", "big", value=value),
        node("Add", "x big", "a"),
        node("Sub", "a big", "y"),
    ]
    nodes[0].ClearField("input")
    source = toys.write_graph(tmp_path / "fp32.onnx", nodes)
    artifact = lower(source, np.full((1, 4), 8, np.float32))
    assert kept(artifact)["n_a"].startswith("its weight 'big' reaches 1e+05")
    assert types_of(artifact)["big"] == FLOAT
    np.testing.assert_allclose(run(artifact.path, np.full((1, 4), 8, np.float32)), 8)


def test_control_flow_is_kept_whole(tmp_path: Path) -> None:
    def branch(name: str, op_type: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(name, FLOAT, None)
        inner = helper.make_node(op_type, ["a", "two"], [name], name=f"n_{name}")
        return helper.make_graph([inner], name, [], [output])

    nodes = [
        node("Mul", "x two", "a"),
        node("ReduceSum", "a", "total", keepdims=0),
        node("Greater", "total two", "positive"),
        node(
            "If",
            "positive",
            "chosen",
            then_branch=branch("then", "Mul"),
            else_branch=branch("else", "Sub"),
        ),
        node("Add", "chosen two", "y"),
    ]
    source = toys.write_graph(
        tmp_path / "fp32.onnx", nodes, weights={"two": np.float32(2)}, shape=(2, 4)
    )
    positive = np.full((2, 4), 3, np.float32)
    artifact = lower(source, positive, -positive)
    assert kept(artifact)["n_chosen"] == "control flow is kept whole"
    computed = toys.node_types(artifact.path)
    assert (computed["n_a"], computed["n_y"]) == (HALF, HALF)
    for x in (positive, -positive):
        np.testing.assert_allclose(run(artifact.path, x), run(source, x), rtol=1e-3)


def test_functions_are_inlined(tmp_path: Path) -> None:
    body = [helper.make_node("Mul", ["v", "v"], ["w"]), helper.make_node("Add", ["w", "v"], ["u"])]
    function = helper.make_function(
        "local", "Twice", ["v"], ["u"], body, [helper.make_opsetid("", 20)]
    )
    call = helper.make_node("Twice", ["x"], ["y"], name="n_y", domain="local")
    source = toys.write_graph(tmp_path / "fp32.onnx", [call], functions=[function])
    artifact = lower(source, toys.normal((2, 4)))
    model = onnx.load(str(artifact.path))
    assert not model.functions
    assert Counter(n.op_type for n in model.graph.node) == {"Cast": 2, "Mul": 1, "Add": 1}


def test_a_cast_to_float_and_a_resize(tmp_path: Path) -> None:
    nodes = [
        node("Cast", "x", "whole", to=onnx.TensorProto.INT8),
        node("Cast", "whole", "back", to=FLOAT),
        node("Add", "back x", "sum"),
        helper.make_node("Resize", ["sum", "", "scales"], ["y"], name="n_y", mode="linear"),
    ]
    source = toys.write_graph(
        tmp_path / "fp32.onnx",
        nodes,
        weights={"scales": np.ones(4, np.float32)},
        shape=(1, 1, 4, 4),
    )
    artifact = lower(source, np.floor(toys.normal((1, 1, 4, 4)) * 10) + 0.5)
    computed = toys.node_types(artifact.path)
    assert (computed["n_back"], computed["n_sum"], computed["n_y"]) == (HALF, HALF, HALF)
    assert artifact.sqnr_db > 50


def test_an_output_that_is_an_input_or_is_read_inside(tmp_path: Path) -> None:
    nodes = [node("Relu", "x", "y"), node("Exp", "y", "z"), node("Identity", "x", "same")]
    source = toys.write_graph(tmp_path / "fp32.onnx", nodes, outputs=("y", "z", "same"))
    x = toys.normal((2, 4))
    artifact = lower(source, x)
    found = run_session(open_session(artifact.path), {"x": x})
    for expected, actual in zip(run_session(open_session(source), {"x": x}), found, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=2e-3)
    names = [output.name for output in onnx.load(str(artifact.path)).graph.output]
    assert names == ["y", "z", "same"]


def test_a_large_output_stays_float32_to_the_end(tmp_path: Path) -> None:
    nodes = [node("Mul", "x up", "y"), node("Mul", "y down", "z")]
    weights = {"up": np.float32(1000), "down": np.float32(1e-3)}
    source = toys.write_graph(tmp_path / "fp32.onnx", nodes, weights=weights, outputs=("y", "z"))
    x = np.full((1, 4), 100, np.float32)
    artifact = lower(source, x)
    assert artifact.sqnr_db > 50
    large, small = run_session(open_session(artifact.path), {"x": x})
    np.testing.assert_allclose(large, 1e5, rtol=1e-3)
    np.testing.assert_allclose(small, 100, rtol=1e-3)


def test_external_data_stays_external(exported: Path) -> None:
    model = onnx.load(str(exported))
    onnx.save_model(
        model,
        str(exported),
        save_as_external_data=True,
        location=data_path(exported).name,
        size_threshold=0,
    )
    x = toys.normal((1, 3, 8, 8))
    artifact = lower(exported, x, external_threshold=1000)
    data = data_path(artifact.path)
    assert artifact.bytes == artifact.path.stat().st_size + data.stat().st_size
    assert data.stat().st_size >= 8 * 36 * 5 * 2
    assert artifact.sqnr_db > 50
    assert np.abs(run(artifact.path, x) - run(exported, x)).max() < 1e-2


def test_a_float16_model_is_taken_as_it_is(tmp_path: Path) -> None:
    weights = {"two": np.float16(2)}
    source = toys.write_graph(
        tmp_path / "fp32.onnx", [node("Mul", "x two", "y")], weights=weights, dtype=HALF
    )
    artifact = lower(source, np.ones((1, 4), np.float16))
    assert artifact.sqnr_db == math.inf
    assert "no float32" in artifact.notes[0]
    assert types_of(artifact)["y"] == HALF


def test_a_float64_model_is_refused(tmp_path: Path) -> None:
    weights = {"two": np.float64(2)}
    dtype = onnx.TensorProto.DOUBLE
    nodes = [node("Mul", "x two", "y")]
    source = toys.write_graph(tmp_path / "fp32.onnx", nodes, weights=weights, dtype=dtype)
    with pytest.raises(ExportError, match="double") as caught:
        lower(source, np.ones((1, 4)))
    assert ".float()" in str(caught.value.hint)
    assert not source.with_name("fp16.onnx").exists()


def test_bad_calls_are_clear_errors(tmp_path: Path, exported: Path) -> None:
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"\x00not a model")
    for source in (garbage, tmp_path / "missing.onnx"):
        with pytest.raises(ExportError):
            lower(source, np.ones(1, np.float32))
    with pytest.raises(ExportError, match="inputs"):
        lower(exported)
    with pytest.raises(ExportError, match="'x'"):
        lower_fp16(exported, tmp_path / "o.onnx", inputs=[{"y": toys.normal((1, 3, 8, 8))}])
    with pytest.raises(ExportError, match="cannot run"):
        lower(exported, toys.normal((1, 4, 8, 8)))


def test_two_lowerings_give_the_same_file(exported: Path) -> None:
    x = toys.normal((1, 3, 8, 8))
    first = lower(exported, x).path.read_bytes()
    assert lower(exported, x).path.read_bytes() == first


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_real_models(tmp_path: Path, name: str) -> None:
    module = torchvision_model(name)
    source = toys.export_module(module, (torch.randn(1, 3, 64, 64),), tmp_path / "fp32.onnx")
    x = toys.normal((1, 3, 64, 64))
    path = tmp_path / "fp16.onnx"
    artifact = lower_fp16(source, path, inputs=[{"input": x}])
    assert artifact.sqnr_db > 40
    assert artifact.kept == ()
    assert artifact.bytes < source.stat().st_size * 0.55
