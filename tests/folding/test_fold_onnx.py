"""BatchNormalization nodes of ONNX graphs: what folds, what stays and why, and the proof."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_files import FLOAT, GraphWriter, branching, detector, resnet

from deployfold.folding.onnx import fold_graph
from deployfold.folding.onnx import proof as proofs
from deployfold.folding.onnx.rules import find_change
from deployfold.lowering.graph import prepare


def _fold(proto: onnx.ModelProto) -> tuple[ir.Model, object]:
    model = ir.from_proto(proto)
    prepare(model)
    return model, fold_graph(model)


def _same(proto: onnx.ModelProto, model: ir.Model, shape: tuple[int, ...]) -> float:
    """The largest relative difference of the outputs in ONNX Runtime."""
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    before, after = (_run(one, x) for one in (proto, ir.to_proto(model)))
    return max(
        float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(before, after, strict=True)
    )


def _run(proto: onnx.ModelProto, x: np.ndarray[Any, Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, {proto.graph.input[0].name: x}))


def _alone(make: Callable[[GraphWriter], str], shape: tuple[int, ...]) -> onnx.ModelProto:
    g = GraphWriter(13)
    g.rename(make(g), "y")
    return g.model({"x": (FLOAT, shape)}, {"y": (FLOAT, None)})


def _conv_transposed(g: GraphWriter) -> str:
    weight = g.weight(g.random.standard_normal((4, 3, 2, 2)).astype(np.float32))
    return g.norm(g.node("ConvTranspose", "x", weight, group=2, strides=[2, 2]), 6)


def _gemm(g: GraphWriter) -> str:
    weight = g.weight(g.random.standard_normal((4, 6)).astype(np.float32))
    bias = g.weight(g.random.standard_normal(6).astype(np.float32))
    return g.norm(g.node("Gemm", "x", weight, bias, alpha=0.5, beta=2.0), 6)


def _matmul(g: GraphWriter) -> str:
    weight = g.weight(g.random.standard_normal((4, 6)).astype(np.float32))
    return g.norm(g.node("MatMul", "x", weight), 6)


def _matmul_add(g: GraphWriter) -> str:
    weight = g.weight(g.random.standard_normal((4, 6)).astype(np.float32))
    bias = g.weight(g.random.standard_normal(6).astype(np.float32))
    return g.norm(g.node("Add", bias, g.node("MatMul", "x", weight)), 6)


def _conv_add(g: GraphWriter) -> str:
    bias = g.weight(g.random.standard_normal((1, 5, 1, 1)).astype(np.float32))
    return g.norm(g.node("Add", g.conv("x", 4, 5), bias), 5)


def _grouped_shared(g: GraphWriter) -> str:
    """One weight for two layers; only one of them has a BatchNormalization."""
    weight = g.weight(g.random.standard_normal((4, 2, 3, 3)).astype(np.float32))
    first = g.norm(g.node("Conv", "x", weight, group=2, pads=[1] * 4), 4)
    return g.node("Conv", first, weight, group=2, pads=[1] * 4)


def _before_convs(g: GraphWriter) -> str:
    x = g.norm(g.node("Relu", "x"), 4)
    wide = g.conv(x, 4, 3, 3, pads=[0] * 4)
    point = g.conv(x, 4, 2, 1, strides=[1, 1])
    return g.node("Concat", g.node("GlobalAveragePool", wide), g.node("GlobalAveragePool", point),
                  axis=1)  # fmt: skip


def _before_gemm(g: GraphWriter) -> str:
    weight = g.weight(g.random.standard_normal((3, 4)).astype(np.float32))
    return g.node("Gemm", g.norm(g.node("Relu", "x"), 4), weight, alpha=0.5, transB=1)


def _before_matmul(g: GraphWriter) -> str:
    weight = g.weight(g.random.standard_normal((4, 3)).astype(np.float32))
    return g.node("MatMul", g.norm(g.node("Relu", "x"), 4), weight)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (_conv_transposed, (2, 4, 3, 3)),
        (_gemm, (3, 4)),
        (_matmul, (3, 4)),
        (_matmul_add, (3, 4)),
        (_conv_add, (2, 4, 5, 5)),
        (_grouped_shared, (2, 4, 5, 5)),
        (_before_convs, (2, 4, 5, 5)),
        (_before_gemm, (3, 4)),
        (_before_matmul, (3, 4)),
    ],
)
def test_a_batch_norm_goes_and_the_function_stays(
    make: Callable[[GraphWriter], str], shape: tuple[int, ...]
) -> None:
    proto = _alone(make, shape)
    model, found = _fold(proto)
    assert (len(found.folded), found.left) == (1, ())
    assert found.float64_relative < 1e-13
    assert not [node for node in model.graph if node.op_type == "BatchNormalization"]
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert _same(proto, model, shape) < 1e-5
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def _padded(g: GraphWriter) -> str:
    return g.conv(g.norm(g.node("Relu", "x"), 4), 4, 3)


def _read_twice(g: GraphWriter) -> str:
    x = g.conv("x", 4, 4)
    return g.node("Add", g.node("Relu", g.norm(x, 4)), x)


def _computed_weight(g: GraphWriter) -> str:
    weight = g.weight(g.random.standard_normal((4, 4, 1, 1)).astype(np.float32))
    scaled = g.node("Mul", weight, g.node("ReduceMean", "x", keepdims=0))
    return g.norm(g.node("Conv", "x", scaled), 4)


def _training(g: GraphWriter) -> str:
    return g.norm(g.conv("x", 4, 4), 4, training_mode=1)


def _training_of_opset_9(g: GraphWriter) -> str:
    y = g.norm(g.conv("x", 4, 4), 4)
    g.nodes[-1].output.extend(["mean", "var"])
    return y


def _alone_at_both_ends(g: GraphWriter) -> str:
    return g.norm("x", 4)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_padded, "the zero padding of Conv '/Conv_2' behind it would mix with the shift"),
        (_read_twice, "its input is also read by Add '/Add_3'"),
        (_computed_weight, "the weight of Conv '/Conv_2' before it is computed by the graph"),
        (_training, "it is in training mode, so it depends on the batch"),
        (_training_of_opset_9, "it is in training mode, so it depends on the batch"),
        (_alone_at_both_ends, "its input 'x' comes from no layer"),
    ],
)
def test_a_batch_norm_stays_with_its_reason(
    make: Callable[[GraphWriter], str], reason: str
) -> None:
    proto = _alone(make, (2, 4, 5, 5))
    _, found = _fold(proto)
    assert not found.folded
    assert reason in found.left[0].reason


def test_whole_models_keep_their_function():
    for proto, shape, folded, left in (
        (resnet(), (1, 3, 32, 32), 5, 1),
        (detector(), (1, 3, 32, 32), 5, 0),
        (branching(), (1, 3, 12, 12), 2, 0),  # one of them inside the If
    ):
        model, found = _fold(proto)
        assert (len(found.folded), len(found.left)) == (folded, left)
        assert _same(proto, model, shape) < 1e-5


@settings(max_examples=25)
@given(
    out=st.integers(1, 4), groups=st.integers(1, 3), width=st.integers(1, 3),
    kernel=st.integers(1, 3), dilation=st.integers(1, 2), stride=st.integers(1, 2),
    automatic=st.sampled_from(["NOTSET", "SAME_UPPER", "VALID"]), bias=st.booleans(),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_any_convolution_takes_its_batch_norm(
    out: int, groups: int, width: int, kernel: int, dilation: int, stride: int, automatic: str,
    bias: bool, seed: int,
) -> None:  # fmt: skip
    g = GraphWriter(13)
    g.random = np.random.default_rng(seed)
    weight = g.random.standard_normal((out * groups, width, kernel, kernel)).astype(np.float32)
    inputs = ["x", g.weight(weight)]
    if bias:
        inputs.append(g.weight(g.random.standard_normal(out * groups).astype(np.float32)))
    attributes = (
        {"dilations": [1, 1]} if automatic == "SAME_UPPER" else {"dilations": [dilation] * 2}
    )
    conv = g.node("Conv", *inputs, group=groups, strides=[stride] * 2, auto_pad=automatic,
                  **attributes)  # fmt: skip
    g.rename(g.norm(conv, out * groups), "y")
    proto = g.model({"x": (FLOAT, [1, width * groups, 7, 7])}, {"y": (FLOAT, None)})
    model, found = _fold(proto)
    assert len(found.folded) == 1
    assert _same(proto, model, (1, width * groups, 7, 7)) < 1e-4


def test_the_proof_finds_a_wrong_change():
    model = ir.from_proto(_alone(_gemm, (3, 4)))
    prepare(model)
    norm = next(node for node in model.graph if node.op_type == "BatchNormalization")
    change = find_change(norm)
    assert not isinstance(change, str)
    assert proofs.relative_difference(change) < 1e-14
    (layer,) = change.layers
    wrong = replace(layer, constants={**layer.constants, 2: layer.constants[2] + 1e-6})
    assert proofs.relative_difference(replace(change, layers=(wrong,))) > 1e-8
