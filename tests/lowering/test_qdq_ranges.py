"""The range of an activation serves pictures that calibration has not seen."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from deployfold.config.precision import Precision
from deployfold.lowering.progress import silent
from deployfold.lowering.qdq.channels import Comparison
from deployfold.lowering.qdq.columns import Columns
from deployfold.lowering.qdq.fit import NEAREST
from deployfold.lowering.qdq.formats import INT8
from deployfold.lowering.qdq.layer_runs import LayerRunner
from deployfold.lowering.qdq.layers import Layer, find_layers
from deployfold.lowering.qdq.problem import UNBOUNDED, Problem
from deployfold.lowering.qdq.quantise import LayerResult, quantise_layers
from deployfold.lowering.qdq.sample_split import split_samples
from deployfold.lowering.request import LoweringData


def quantised(
    tops: list[float],
    weights: dict[str, np.ndarray],
    folds: tuple[int, ...],
    clip: float = 1e9,
    columns: int = 400,
):
    """Matrix products that read samples of uniform values from 0 to each of ``tops``.

    A Clip to ``clip`` and a Flatten make the tensor that they read.
    """
    random = np.random.default_rng(0)
    feeds = [{"x": random.uniform(0, top, (columns, 4)).astype("float32")} for top in tops]
    nodes = [
        helper.make_node("Clip", ["x", "low", "high"], ["clipped"]),
        helper.make_node("Flatten", ["clipped"], ["flat"]),
        *(helper.make_node("MatMul", ["flat", key], [f"{key}.out"], name=key) for key in weights),
    ]
    bounds = {"low": np.float32(0), "high": np.float32(clip)}
    graph = helper.make_graph(
        nodes, "graph", [helper.make_tensor_value_info("x", TensorProto.FLOAT, (columns, 4))],
        [helper.make_tensor_value_info(f"{key}.out", TensorProto.FLOAT, None) for key in weights],
        [numpy_helper.from_array(np.asarray(a), key) for key, a in (weights | bounds).items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    layers = [Layer(key, "MatMul", "flat", f"{key}.out", key, None, 1) for key in weights]
    found = quantise_layers(model, layers, feeds, INT8, strengths=(NEAREST,), folds=folds)
    return {result.layer.name: result for result in found}


@pytest.mark.parametrize(("tops", "folds", "wider"), [
    ([1.0, 1.2], (1,), True), ([1.0, 1.0], (1,), False), ([1.0, 1.2], (), False),
])  # fmt: skip
def test_a_range_is_wider_than_the_samples_where_pictures_differ(tops, folds, wider):
    result: LayerResult = quantised(tops, {"first": np.eye(4, dtype="f4")}, folds)["first"]
    assert (result.input_range > max(tops)) is wider
    assert ("20%" in result.estimator) is wider


@pytest.mark.parametrize(("columns", "estimator"), [(1, "max + 20%"), (400, "max")])
def test_one_column_a_sample_takes_the_widest_range(columns, estimator):
    weights = {"first": np.eye(4, dtype="f4")}
    found = quantised([1.0] * 64, weights, (32,), columns=columns)["first"]
    assert found.estimator == estimator


def test_head_room_ends_at_the_bound_of_the_tensor():
    found = quantised([1.0, 1.2], {"first": np.eye(4, dtype="f4")}, (1,), clip=1.3)["first"]
    assert found.input_range == np.float32(1.3)
    assert "20%" in found.estimator


@pytest.mark.parametrize(("kinds", "limit"), [
    (["Sigmoid"], 1), (["Tanh", "MaxPool"], 1), (["Sigmoid", "Add e"], np.inf), (["Relu"], np.inf),
    (["Sigmoid", "Pad pads"], 1), (["Tanh", "Pad pads filler"], 7),
    (["Tanh", "Pad pads e"], np.inf),
])  # fmt: skip
def test_the_limit_of_a_tensor(kinds, limit):
    names = [*"abcd"][: len(kinds) + 1]
    nodes = [
        helper.make_node(kind.split()[0], [name, *kind.split()[1:]], [output])
        for kind, name, output in zip(kinds, names, names[1:], strict=False)
    ]
    filler = numpy_helper.from_array(np.float32(-7), "filler")
    model = helper.make_model(helper.make_graph(nodes, "g", [], [], [filler]))
    assert LayerRunner(model).limit(names[-1]) == limit


def test_all_readers_of_a_tensor_choose_its_range():
    """No error reaches the output of the first."""
    first = np.zeros((4, 1), "f4")
    alone = quantised([1.0, 1.2], {"first": first}, (1,))["first"].input_range
    both = quantised([1.0, 1.2], {"first": first, "second": np.eye(4, dtype="f4")}, (1,))
    assert both["first"].input_range == both["second"].input_range > 1.2 > alone


def problem(values: np.ndarray, curve=None, tokens=False) -> Problem:
    columns = Columns(torch.from_numpy(values.astype("float32")).reshape(1, 1, -1),
                      (slice(0, values.size),))  # fmt: skip
    return Problem(torch.ones(1, 1, 1), None, UNBOUNDED, columns, columns, curve, tokens)


def errors(one: Problem, **scales: float) -> dict[str, float]:
    return one.errors(scales, INT8, one.parts[0])


@pytest.mark.parametrize(("rare", "cuts"), [(True, False), (False, True)])
def test_whole_models_on_other_pictures_decide_whether_ranges_cut(rare, cuts, tmp_path):
    """One value of each picture is large, and no layer samples it: all that the output depends on,
    or beyond a bound."""
    random = np.random.default_rng(0)
    feeds = [{"x": random.uniform(0, 1, (1, 1, 128, 128)).astype("f4")} for _ in range(6)]
    for index, feed in enumerate(feeds):
        feed["x"][0, 0, 20 * index, 9] = 20 + index
    behind = ("Sub", ["h", "low"]) if rare else ("Clip", ["h", "zero", "low"])
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="conv"),
        helper.make_node(*behind[:2], ["z"]),
        helper.make_node("Relu", ["z"], ["y"]),
    ]
    image = (1, 1, 128, 128)
    graph = helper.make_graph(
        nodes, "graph", [helper.make_tensor_value_info("x", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, image)],
        [numpy_helper.from_array(np.full(shape, value, "f4"), name) for name, shape, value in
         (("w", (1, 1, 1, 1), 1), ("low", (), 1), ("zero", (), 0))],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.save(model, tmp_path / "net.onnx")
    loaded = ir.load(tmp_path / "net.onnx")
    data = LoweringData(feeds[:1], calibration=feeds, held_back=feeds[4:], calibration_real=True)
    samples = split_samples(data, Precision.INT8)
    comparison = Comparison(tmp_path / "net.onnx", find_layers(loaded), samples, INT8, tmp_path)
    assert comparison.cuts(loaded, silent) is cuts


def test_a_range_may_cut_what_a_sigmoid_saturates():
    values = np.append(np.linspace(-6, 6, 999), 60)
    scales = {"narrow": 12 / 127, "wide": 60 / 127}
    linear, saturated = (
        errors(problem(values, curve), **scales) for curve in (None, torch.sigmoid)
    )
    assert linear["wide"] < linear["narrow"]
    assert saturated["wide"] > saturated["narrow"]
