"""Head-room: what fits float16 on one input must fit it on the next, which may be larger."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from lower_toys import FLOAT, HALF, export_module, node, node_types, normal, write_graph
from lowering_calls import lower_fp16, lower_int8
from onnx.reference import ReferenceEvaluator
from qdq_nets import LOOSE, audit
from torch import nn

from deployfold.config.precision import Precision
from deployfold.lowering import lower
from deployfold.lowering.cast.headroom import EXPONENTIAL, GROWTH, degrees, growth
from deployfold.lowering.cast.ranges import tensor_range
from deployfold.lowering.graph import prepare
from deployfold.lowering.request import LoweringData


class HandNorm(nn.Module):
    """A written-out LayerNorm; the square reaches 3.2e4 on one random input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x) * 280
        mean = y.mean(-1, keepdim=True)
        variance = ((y - mean) ** 2).mean(-1, keepdim=True)
        return self.second((y - mean) / torch.sqrt(variance + 1e-5))


def test_inputs_several_times_as_large_are_as_exact(tmp_path):
    """Inputs 1.5 times as large gave finite outputs that were wrong by 93 %."""
    torch.manual_seed(0)
    net = HandNorm().eval()
    x = torch.randn(1, 4, 64)
    source = export_module(net, (x,), tmp_path / "net.onnx")
    made = lower_fp16(source, tmp_path / "fp16.onnx", inputs=[{"input": x.numpy()}])
    run = ReferenceEvaluator(str(made.path)).run
    for scale in (1, 1.5, 2, 3, 5, 8):
        scaled = torch.randn(1, 4, 64) * scale
        wanted = net(scaled).detach().numpy()
        (given,) = run(None, {"input": scaled.numpy()})
        assert np.abs(given - wanted).max() < 0.02 * np.abs(wanted).max(), scale
    # The square, its mean and the root form one island: nothing inside it is ever float16.
    types, graph = node_types(made.path), onnx.load(made.path).graph
    island = {one.name for one in graph.node if one.op_type in ("Pow", "Sqrt")}
    assert {types[name] for name in island} == {FLOAT}
    inside = {name for one in graph.node if one.op_type == "Pow" for name in one.output}
    assert not [one for one in graph.node if one.op_type == "Cast" and one.input[0] in inside]
    assert any("grows with the power 2 of the inputs" in one.reason for one in made.kept)
    assert made.head_room is not None
    assert made.head_room.factor >= GROWTH


def test_a_quantised_layer_beyond_the_range_keeps_its_pair_beside_it(tmp_path):
    """A Cast between a DequantizeLinear and its layer would cost the fusion."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    with torch.no_grad():
        net[0].weight *= 2e4
        net[2].weight *= 1e-4
    source = export_module(net, (torch.zeros(1, 3, 12, 12),), tmp_path / "net.onnx")
    feeds = [{"input": normal((1, 3, 12, 12), seed)} for seed in range(12)]
    made = lower_int8(
        source, tmp_path / "int8.onnx", calibration=feeds[:8], held_back=feeds[8:], guard=LOOSE
    )
    assert made.sqnr_db > 25
    assert any("float16" in one.reason for one in made.kept)
    assert audit(made.path) == 2
    graph = onnx.load(made.path).graph
    makers = {name: one for one in graph.node for name in one.output}
    for one in graph.node:
        if one.op_type == "Conv":
            assert {makers[name].op_type for name in one.input[:2]} == {"DequantizeLinear"}


DEGREES = {
    "linear": ([node("MatMul", "x w", "y")], 1),
    "square": ([node("Mul", "x x", "y")], 2),
    "power": ([node("Pow", "x three", "y")], 3),
    "product": ([node("Sigmoid", "x", "s"), node("Mul", "x s", "y")], 1),
    "root": ([node("Mul", "x x", "a"), node("Sqrt", "a", "y")], 1),
    "norm": (
        [node("Mul", "x x", "a"), node("Sqrt", "a", "b"), node("Div", "x b", "y")], 0.5,
    ),
    "layer norm": ([node("LayerNormalization", "x scale", "y")], 0.5),
    "scores": (
        [
            node("LayerNormalization", "x scale", "a"),
            node("Transpose", "a", "b", perm=[1, 0]),
            node("MatMul", "a b", "y"),
        ],
        1,
    ),
    "bounds": ([node("Tanh", "x", "y")], 0),
    "Clip": ([node("Clip", "x low high", "y")], 0),
    "one-sided Clip": ([node("Clip", "x low", "y")], 1),
    "gates do not pile up": (
        [
            node("Mul", "x x", "a"), node("Mul", "a a", "b"), node("Mul", "b b", "c"),
            node("Mul", "c c", "y"),
        ],
        3,
    ),
    "Exp": ([node("Exp", "x", "y")], EXPONENTIAL),
    "softplus": (
        [node("Exp", "x", "a"), node("Add", "a one", "b"), node("Log", "b", "y")], 1,
    ),
    "Gather": ([node("Cast", "x", "i", to=7), node("Gather", "w i", "y")], 0),
}  # fmt: skip
WEIGHTS = {
    "w": np.eye(4, dtype=np.float32), "three": np.float32(3), "scale": np.ones(4, np.float32),
    "low": np.float32(0), "high": np.float32(6), "one": np.float32(1),
}  # fmt: skip


@pytest.mark.parametrize("name", DEGREES)
def test_the_degree_of_a_tensor(name, tmp_path):
    nodes, wanted = DEGREES[name]
    used = {key for one in nodes for key in one.input}
    weights = {key: value for key, value in WEIGHTS.items() if key in used}
    path = tmp_path / "net.onnx"
    source = write_graph(path, nodes, weights=weights) if name != "Gather" else None
    if source is None:
        from onnx import helper, numpy_helper

        graph = helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("x", FLOAT, [4])],
            [helper.make_tensor_value_info("y", FLOAT, None)],
            [numpy_helper.from_array(WEIGHTS["w"], "w")],
        )  # fmt: skip
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    model = ir.load(path)
    prepare(model)
    assert degrees(model, {})["y"] == wanted


def test_an_exp_of_negative_numbers_is_bounded(tmp_path):
    nodes = [node("Abs", "x", "a"), node("Neg", "a", "b"), node("Exp", "b", "y")]
    model = ir.load(write_graph(tmp_path / "net.onnx", nodes))
    seen = {"y": tensor_range(np.ones(3, np.float32))}
    assert degrees(model, seen)["y"] == 0
    assert degrees(model, {"y": tensor_range(np.full(3, 2, np.float32))})["y"] == EXPONENTIAL


def test_growth_is_by_the_degree():
    assert growth(65504 / 8, 1.0) == pytest.approx(8)
    assert growth(65504 / 64, 2.0) == pytest.approx(8)
    assert growth(math.e, EXPONENTIAL) == pytest.approx(math.log(65504))
    assert growth(1.0, EXPONENTIAL) == growth(0.0, 1.0) == growth(5.0, 0.0) == math.inf


@pytest.mark.parametrize(("up", "kept"), [(80.0, set()), (90.0, {"n_a", "n_y"})])
def test_the_limit_is_an_eighth(up, kept, tmp_path):
    weights = {"up": np.float32(up), "down": np.float32(0.01)}
    nodes = [node("Mul", "x up", "a"), node("Mul", "a down", "y")]
    source = write_graph(tmp_path / "net.onnx", nodes, weights=weights)
    made = lower_fp16(
        source, tmp_path / "fp16.onnx", inputs=[{"x": np.full((1, 4), 100, np.float32)}]
    )
    assert {one.name for one in made.kept} == kept
    assert node_types(made.path)["n_a"] == (FLOAT if kept else HALF)


@pytest.mark.parametrize("real", [True, False])
def test_random_inputs_are_named(real, tmp_path):
    weights = {"up": np.float32(60), "down": np.float32(0.01)}
    nodes = [node("Mul", "x up", "a"), node("Mul", "a down", "y")]
    source = write_graph(tmp_path / "net.onnx", nodes, weights=weights)
    data = LoweringData([{"x": np.full((1, 4), 100, np.float32)}], inputs_real=real)
    made = lower(source, tmp_path / "fp16.onnx", Precision.FP16, data)
    assert "inputs 10.9 times as large still fit float16" in made.about
    assert ("on 1 random input, since no others were given" in made.about) is not real
    assert ("only random inputs were seen" in made.notes[0]) is not real
