"""A graph is cut in two; the two parts, run in order, compute the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper
from onnx_files import FLOAT, INT64, GraphWriter

from deployfold.exporting.split import Split, split
from deployfold.lowering.graph import prepare

MISSING = {"NonMaxSuppression": "…", "NonZero": "…"}


def _split(proto: onnx.ModelProto) -> Split | None:
    model = ir.from_proto(proto)
    prepare(model)
    return split(model, MISSING)


def _run(model: onnx.ModelProto | ir.Model, feeds: dict[str, Any]) -> dict[str, Any]:
    proto = model if isinstance(model, onnx.ModelProto) else ir.to_proto(model)
    if isinstance(model, ir.Model):
        onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    wanted = {one.name: feeds[one.name] for one in session.get_inputs()}
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(None, wanted), strict=True))


def _check(proto: onnx.ModelProto, found: Split) -> None:
    shape = [one.dim_value for one in proto.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    feeds = {"x": x} | {one.name: np.float32([0.3]) for one in proto.graph.input[1:]}
    whole = _run(proto, feeds)
    between = _run(found.head, feeds)
    assert tuple(between) == found.between
    passed = {f"{name}__head": value for name, value in between.items()}
    parts = _run(found.tail, feeds | between | passed)
    assert list(parts) == list(whole)
    for name, expected in whole.items():
        np.testing.assert_allclose(parts[name], expected, atol=1e-5)
    kinds = {node.op_type for node in found.head.graph}
    assert not kinds & set(MISSING)


def _detector(*, threshold_input: bool = False, scores_out: bool = False) -> onnx.ModelProto:
    g = GraphWriter(17)
    x = g.block("x", 3, 8)
    boxes = g.node("Reshape", g.conv(x, 8, 4, 1), g.constant([1, -1, 4]))
    scores = g.node("Sigmoid", g.node("Reshape", g.conv(x, 8, 2, 1), g.constant([1, 2, -1])))
    limit = "limit" if threshold_input else g.weight(np.float32([0.5]))
    kept = g.node("NonMaxSuppression", boxes, scores, g.constant([20]), limit)
    column = g.node("Slice", kept, g.constant([2]), g.constant([3]), g.constant([1]))
    chosen = g.node("Gather", boxes, g.node("Squeeze", column, g.constant([1])), axis=1)
    g.rename(chosen, "boxes")
    g.rename(kept, "kept")
    outputs: dict[str, Any] = {"boxes": (FLOAT, None), "kept": (INT64, None)}
    if scores_out:
        g.rename(scores, "scores")
        outputs = {"boxes": (FLOAT, None), "scores": (FLOAT, [1, 2, 64]), "kept": (INT64, None)}
    inputs = {"x": (FLOAT, [1, 3, 8, 8])}
    return g.model(inputs | ({"limit": (FLOAT, [1])} if threshold_input else {}), outputs)


def _with_topk(*, layer_behind: bool) -> onnx.ModelProto:
    """The best four boxes by score, through one more layer or not, then NonMaxSuppression."""
    g = GraphWriter(17)
    x = g.block("x", 3, 8)
    boxes = g.node("Reshape", g.conv(x, 8, 4, 1), g.constant([-1, 4]))
    scores = g.node("Reshape", g.node("Sigmoid", g.conv(x, 8, 1, 1)), g.constant([-1]))
    best, order = g.node("TopK", scores, g.constant([4]), outputs=2)
    chosen = g.node("Gather", boxes, order, axis=0)
    if layer_behind:
        weight = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
        chosen = g.node("MatMul", chosen, g.weight(weight))
    kept = g.node(
        "NonMaxSuppression", g.node("Unsqueeze", chosen, g.constant([0])),
        g.node("Unsqueeze", best, g.constant([0, 1])), g.constant([4]), g.weight(np.float32([0.5])),
    )  # fmt: skip
    g.rename(kept, "kept")
    return g.model({"x": (FLOAT, [1, 3, 8, 8])}, {"kept": (INT64, None)})


def test_a_choice_at_the_end_goes_to_the_tail() -> None:
    proto = _with_topk(layer_behind=False)
    found = _split(proto)
    assert found is not None
    _check(proto, found)
    assert "TopK" not in {node.op_type for node in found.head.graph}
    assert found.op_type == "NonMaxSuppression", "the reason of the cut stays"
    proto = _with_topk(layer_behind=True)
    found = _split(proto)
    assert found is not None
    _check(proto, found)
    kinds = {node.op_type for node in found.head.graph}
    assert {"TopK", "MatMul"} <= kinds, "a layer behind the choice stays in the engine"


def test_a_branch_of_the_tail_may_read_other_nodes_of_the_tail() -> None:
    """As torchvision's batched NMS does after an export by the tracer."""
    g = GraphWriter(17)
    x = g.block("x", 3, 8)
    boxes = g.node("Reshape", g.conv(x, 8, 4, 1), g.constant([-1, 4]))
    scores = g.node("Reshape", g.node("Sigmoid", g.conv(x, 8, 1, 1)), g.constant([-1]))
    high = g.node(
        "Squeeze", g.node("NonZero", g.node("Greater", scores, g.weight(np.float32(0.5))))
    )
    chosen = g.node("Gather", boxes, high, axis=0)
    value = helper.make_tensor_value_info("inside", FLOAT, ["n", 4])
    branches = [
        helper.make_graph([helper.make_node(kind, [chosen], ["inside"])], kind, [], [value])
        for kind in ("Identity", "Neg")
    ]
    some = g.node("Greater", g.node("Size", chosen), g.constant(np.int64(0)))
    g.rename(g.node("If", some, then_branch=branches[0], else_branch=branches[1]), "out")
    proto = g.model({"x": (FLOAT, [1, 3, 8, 8])}, {"out": (FLOAT, None)})
    found = _split(proto)
    assert found is not None
    _check(proto, found)


@pytest.mark.parametrize("threshold_input", [False, True])
@pytest.mark.parametrize("scores_out", [False, True])
def test_boxes_and_their_choice(threshold_input: bool, scores_out: bool) -> None:
    proto = _detector(threshold_input=threshold_input, scores_out=scores_out)
    found = _split(proto)
    assert found is not None
    _check(proto, found)
    assert len(found.between) == 2
    assert found.place == "NonMaxSuppression '/NonMaxSuppression_8'"
    tail = [node.op_type for node in found.tail.graph]
    assert tail[:4] == ["NonMaxSuppression", "Slice", "Squeeze", "Gather"]
    assert tail[4:] == ["Identity"] * scores_out  # the scores pass through


def test_a_mask_is_made_in_the_tail():
    g = GraphWriter(17)
    x = g.block("x", 3, 8)
    g.rename(g.node("NonZero", g.node("Greater", x, g.weight(np.float32(1)))), "where")
    proto = g.model({"x": (FLOAT, [1, 3, 8, 8])}, {"where": (INT64, None)})
    found = _split(proto)
    assert found is not None
    _check(proto, found)
    assert [node.op_type for node in found.tail.graph] == ["Greater", "NonZero"]


def test_control_flow_goes_whole():
    g = GraphWriter(17)
    x = g.block("x", 3, 8)
    g.rename(g.node("Relu", x), "first")
    arms = {}
    for key, op in (("then", "NonZero"), ("else", "Shape")):
        inner = [helper.make_node(op, [x], [f"{key}_a"], name=f"/{key}")]
        inner.append(helper.make_node("Size", [f"{key}_a"], [f"{key}_y"], name=f"/{key}/size"))
        result = helper.make_tensor_value_info(f"{key}_y", INT64, [])
        arms[f"{key}_branch"] = helper.make_graph(inner, key, [], [result])
    positive = g.node("Greater", g.node("ReduceSum", x, keepdims=0), g.weight(np.float32(0)))
    g.rename(g.node("If", positive, **arms), "y")
    proto = g.model({"x": (FLOAT, [1, 3, 8, 8])}, {"first": (FLOAT, None), "y": (INT64, [])})
    found = _split(proto)
    assert found is not None
    _check(proto, found)
    assert found.place == "NonZero '/If_6'"


def test_nothing_is_cut_without_reason():
    g = GraphWriter(17)
    g.rename(g.block("x", 3, 8), "y")
    assert _split(g.model({"x": (FLOAT, [1, 3, 8, 8])}, {"y": (FLOAT, None)})) is None
    g = GraphWriter(17)
    g.rename(g.node("NonZero", "x"), "y")  # nothing would be left for the engine
    assert _split(g.model({"x": (FLOAT, [1, 3])}, {"y": (INT64, None)})) is None
