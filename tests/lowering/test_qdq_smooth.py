"""Scaling the channels in front of matrix products: the function stays, int8 gains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from lowering_calls import lower_int8
from onnx import TensorProto, helper, numpy_helper

from deployfold.config.accuracy import GuardSpec
from deployfold.exporting.session import open_session, run_session
from deployfold.lowering.graph import prepare
from deployfold.lowering.qdq.layers import Skip, find_layers
from deployfold.lowering.qdq.smooth import smooth

TOKENS, WIDTH = 6, 16


def block(*, residual: bool) -> onnx.ModelProto:
    """A normalisation with two loud channels, and two products that read it.

    Args:
        residual: a sum reads the normalisation too, as in a transformer that normalises last.
    """
    random = np.random.default_rng(0)
    gamma = np.where(np.arange(WIDTH) < 2, 50.0, 1.0)
    arrays = {
        "gamma": gamma, "beta": random.standard_normal(WIDTH),
        "first": random.standard_normal((WIDTH, WIDTH)) / gamma[:, None],
        "second": random.standard_normal((WIDTH, WIDTH)) / gamma[:, None],
    }  # fmt: skip
    nodes = [
        helper.make_node("LayerNormalization", ["x", "gamma", "beta"], ["n"], name="norm"),
        helper.make_node("MatMul", ["n", "first"], ["a"], name="a"),
        helper.make_node("MatMul", ["n", "second"], ["b"], name="b"),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Add", ["c", "n" if residual else "x"], ["y"]),
    ]
    shape = (1, TOKENS, WIDTH)
    graph = helper.make_graph(
        nodes, "block",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array.astype(np.float32), key) for key, array in arrays.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def inputs(count: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(1)
    shape = (count, 1, TOKENS, WIDTH)
    return [{"x": one} for one in random.standard_normal(shape).astype(np.float32)]


@pytest.mark.parametrize("residual", [False, True])
def test_the_function_stays(residual: bool) -> None:
    model, feeds = ir.from_proto(block(residual=residual)), inputs(3)
    prepare(model)
    before = open_session(ir.to_proto(model).SerializeToString())
    assert smooth(model, find_layers(model), feeds) == 1
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("Mul") == residual, "else the normalisation takes the factors"
    after = open_session(ir.to_proto(model).SerializeToString())
    for feed in feeds:
        (expected,), (found,) = run_session(before, feed), run_session(after, feed)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    weights = {layer.source for layer in find_layers(model)}
    assert weights == {"n"}, "the layers know the tensor by its name"


def test_a_skip_that_is_quantised_keeps_its_tensor() -> None:
    model = ir.from_proto(block(residual=True))
    prepare(model)
    layers = [replace(layer, skip=Skip("n", "y")) for layer in find_layers(model)]
    assert smooth(model, layers, inputs(2)) == 0


def test_int8_gains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, feeds = tmp_path / "net.onnx", inputs(16)
    onnx.save(block(residual=False), source)
    found = []
    for variants in (((),), ((), (smooth,))):
        monkeypatch.setattr("deployfold.lowering.qdq.channels.VARIANTS", variants)
        made = lower_int8(
            source, tmp_path / "net.int8.onnx", calibration=feeds[:8], held_back=feeds[8:],
            guard=GuardSpec(enabled=False),
        )  # fmt: skip
        found.append(made.sqnr_db)
    assert found[1] > found[0] + 6
