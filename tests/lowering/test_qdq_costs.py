"""A quantised layer alone, and a model with fewer quantised layers: both spare what is known."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from deployfold.exporting.session import open_session, run_session
from deployfold.exporting.storage import write_model
from deployfold.lowering.qdq.costs import outputs_alone
from deployfold.lowering.qdq.formats import INT8
from deployfold.lowering.qdq.layers import Layer, Skip
from deployfold.lowering.qdq.quantise import LayerResult, quantise_layers
from deployfold.lowering.qdq.rest import build
from deployfold.lowering.qdq.tune import without


class Net:
    """Three 1x1 convolutions, a residual sum behind the second, and an output in the middle."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.layers, self.feeds = [], [
            {"x": random.standard_normal((1, 8, 6, 6)).astype("f4")} for _ in range(6)
        ]  # fmt: skip
        tensors, nodes = [], []
        for name, source in (("a", "x"), ("b", "a.relu"), ("c", "sum")):
            weight = random.standard_normal((8, 8, 1, 1)).astype("f4") / 3
            tensors += [numpy_helper.from_array(weight, f"{name}.w"),
                        numpy_helper.from_array(np.ones(8, "f4"), f"{name}.b")]  # fmt: skip
            nodes.append(
                helper.make_node("Conv", [source, f"{name}.w", f"{name}.b"], [name], name=name)
            )
            skip = Skip("a.relu", "sum") if name == "b" else None
            self.layers.append(
                Layer(name, "Conv", source, name, f"{name}.w", f"{name}.b", 0, skip=skip)
            )
        nodes.insert(1, helper.make_node("Relu", ["a"], ["a.relu"], name="relu"))
        nodes.insert(3, helper.make_node("Add", ["b", "a.relu"], ["sum"], name="add"))
        shape = (1, 8, 6, 6)
        float32 = onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            nodes, "net", [helper.make_tensor_value_info("x", float32, shape)],
            [helper.make_tensor_value_info(name, float32, shape) for name in ("a.relu", "c")],
            initializer=tensors,
        )  # fmt: skip
        self.model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9
        )

    @cached_property
    def every(self) -> list[LayerResult]:
        return quantise_layers(self.model, self.layers, self.feeds, INT8, folds=(3,))


@pytest.fixture(scope="module")
def net() -> Net:
    return Net()


def test_a_layer_alone_gives_the_outputs_of_the_whole_file(net, tmp_path):
    nearest = quantise_layers(net.model, net.layers, net.feeds, INT8, strengths=())
    found = dict(outputs_alone(net.model, net.feeds, nearest, INT8))
    assert list(found) == ["a", "b", "c"]
    for name, outputs in found.items():
        others = {layer.name for layer in net.layers} - {name}
        write_model(
            build(net.model, without(nearest, others), INT8, None)[0], tmp_path / "one.onnx"
        )
        session = open_session(tmp_path / "one.onnx", optimize=False)
        for index, feed in enumerate(net.feeds):
            for expected, output in zip(run_session(session, feed), outputs, strict=True):
                np.testing.assert_allclose(output[index], expected, atol=1e-5)


def test_layers_before_those_put_back_stay_and_the_others_are_fitted_anew(net):
    fewer = quantise_layers(
        net.model, net.layers, net.feeds, INT8, folds=(3,), excluded={"b"}, earlier=net.every
    )
    afresh = quantise_layers(net.model, net.layers, net.feeds, INT8, folds=(3,), excluded={"b"})
    first, second, last = fewer
    assert first.quantised is net.every[0].quantised
    assert second.quantised is None
    assert last.choice == net.every[2].choice
    assert not np.array_equal(last.quantised.bias, net.every[2].quantised.bias)
    assert last.sqnr_db == pytest.approx(afresh[2].sqnr_db, abs=0.5)
