"""Outputs that join boxes and scores are judged part by part, each by its own scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_files import FLOAT, GraphWriter, save

from deployfold.config.precision import Precision
from deployfold.lowering import lower
from deployfold.lowering.accuracy import Measurer
from deployfold.lowering.output_parts import output_parts
from deployfold.lowering.request import LoweringData
from deployfold.lowering.result import LoweredModel
from deployfold.util.numerics import sqnr_db


def _joined(tmp_path: Path, *, transposed: bool = False) -> Path:
    """Boxes up to 640 and scores up to 1 in one output; scores are a difference of large numbers,
    which float16 cannot keep."""
    g = GraphWriter(17)
    x = g.node("Relu", g.conv("x", 3, 8))
    boxes = g.node("Mul", g.node("Sigmoid", g.conv(x, 8, 4, 1)), g.weight(np.float32(640)))
    large = g.node("Add", g.conv(x, 8, 2, 1), g.weight(np.float32(1000)))
    scores = g.node("Sigmoid", g.node("Sub", large, g.weight(np.float32(1000))))
    out = g.node("Concat", boxes, scores, axis=1)
    shape = [1, 6, 8, 8]
    if transposed:
        out, shape = g.node("Transpose", out, perm=[0, 2, 3, 1]), [1, 8, 8, 6]
    g.rename(out, "found")
    model = g.model({"x": (FLOAT, [1, 3, 8, 8])}, {"found": (FLOAT, shape)})
    return save(onnx.shape_inference.infer_shapes(model), tmp_path / "net.onnx")


def _feeds(count: int = 3) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [{"x": random.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


def test_the_parts_are_those_of_the_concat(tmp_path: Path) -> None:
    (parts,) = output_parts(ir.load(_joined(tmp_path))).values()
    assert [(one.label, one.axis, one.start, one.stop) for one in parts] == [
        ("found[0:4]", 1, 0, 4),
        ("found[4:6]", 1, 4, 6),
    ]
    (parts,) = output_parts(ir.load(_joined(tmp_path, transposed=True))).values()
    assert [(one.axis, one.start, one.stop) for one in parts] == [(3, 0, 4), (3, 4, 6)]
    assert parts[1].of(np.arange(12).reshape(1, 1, 2, 6)).tolist() == [[[[4, 5], [10, 11]]]]


def test_a_concat_of_concats_has_the_parts_of_both(tmp_path: Path) -> None:
    g = GraphWriter(17)
    x = g.node("Relu", g.conv("x", 3, 8))
    centre, size, scores = (g.conv(x, 8, channels, 1) for channels in (2, 2, 3))
    boxes = g.node("Identity", g.node("Concat", centre, size, axis=1))
    across = g.node("Concat", scores, scores, axis=2)  # along another axis: one part
    tall = g.node("Concat", boxes, boxes, axis=2)
    out = g.node("Concat", g.node("Concat", tall, across, axis=1), across, axis=-3)
    g.rename(out, "found")
    model = g.model({"x": (FLOAT, [1, 3, 8, 8])}, {"found": (FLOAT, [1, 10, 16, 8])})
    path = save(onnx.shape_inference.infer_shapes(model), tmp_path / "net.onnx")
    (parts,) = output_parts(ir.load(path)).values()
    assert [one.label for one in parts] == ["found[0:4]", "found[4:7]", "found[7:10]"]


def test_wrong_scores_do_not_hide_behind_boxes(tmp_path: Path) -> None:
    path, feeds = _joined(tmp_path), _feeds()
    measurer = Measurer(path, feeds, None)
    expected = [array.copy() for array in measurer._expected[0]]
    spoiled = [array.copy() for array in expected]
    for array in spoiled:
        array[:, 4:] = 0.5  # every score is the same
    measured = measurer.compare([spoiled])
    assert sqnr_db(expected, spoiled) > 40
    assert measured.sqnr_db < 15
    boxes, scores = measured.outputs
    assert boxes.sqnr_db == float("inf")
    assert (scores.name, scores.shape) == ("found[4:6]", (1, 2, 8, 8))


@pytest.mark.parametrize("transposed", [False, True])
def test_the_guard_keeps_the_scores(tmp_path: Path, transposed: bool) -> None:
    source = _joined(tmp_path, transposed=transposed)
    data = LoweringData(inputs=_feeds())
    lowered = lower(source, tmp_path / "half.onnx", Precision.FP16, data)
    assert {node.op_type for node in lowered.kept} & {"Add", "Sub"}
    assert lowered.sqnr_db > 40
    assert [one.name for one in lowered.outputs] == ["found[0:4]", "found[4:6]"]
    assert min(one.sqnr_db for one in lowered.outputs) == lowered.sqnr_db
    assert "found[4:6] " in lowered.about
    again = LoweredModel.from_facts(lowered.path, lowered.to_facts())
    assert again.outputs == lowered.outputs
