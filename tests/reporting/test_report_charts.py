"""The charts of the HTML page and its fold map, read back as elements."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest
from report_sample import crowded_report, sample_report

from deployfold.reporting.fold import FoldedNorm, FoldSummary, LeftNorm
from deployfold.reporting.html.decide import LANE, decision_chart
from deployfold.reporting.html.fold_map import fold_map
from deployfold.reporting.html.layers import layer_charts


def test_the_chart_orders_by_accuracy_and_marks_the_chosen() -> None:
    report = sample_report()
    chart = ElementTree.fromstring(str(decision_chart(report, report.rows[4])))
    marks = [group for group in chart if group.tag == "g"]
    assert [(group.get("class"), group[-1].text) for group in marks] == [
        ("chosen", "✓ ONNX Runtime"),
        ("plain", "PyTorch, folded"),
        ("plain", "TorchScript"),
        ("plain", "PyTorch"),
        ("plain", "torch.export"),
        ("lost", "ONNX Runtime fp16"),
    ]
    places = [float(group[-1].get("y", "")) for group in marks]
    assert all(below - above >= LANE for above, below in pairwise(places))
    assert places[-1] - places[-2] > LANE  # 62 dB are further than a lane
    areas = [float(group.find("circle").get("r", "")) ** 2 for group in marks]  # type: ignore[union-attr]
    assert areas[5] / areas[0] == pytest.approx(51_130_000 / 102_140_000, rel=0.01)
    whiskers = [line.get("x1") for line in marks[0].findall("line")]
    assert len(set(whiskers)) == 2


def test_one_measured_row_makes_no_chart() -> None:
    report = sample_report()
    rows = (report.rows[0], report.rows[-1])
    assert decision_chart(report.model_copy(update={"rows": rows}), None) is None


def test_the_fold_map_is_the_tree_of_the_model() -> None:
    names = ("bn1", "layer1.0.bn1", "layer1.0.bn2", "layer1.0.downsample.1", "layer1.1.bn1")
    fold = FoldSummary(
        batchnorm_before=6, parameters_before=2, parameters_after=1,
        folded=tuple(FoldedNorm(name=n, rule="into the producer", into="conv") for n in names),
        left=(LeftNorm(name="layer1.1.bn2", reason="its output is used twice"),),
    )  # fmt: skip
    root = fold_map(fold)
    assert [leaf.name for leaf in root.leaves] == ["bn1"]
    layer = root.groups["layer1"]
    assert layer.count == "4 of 5 folded"
    assert [leaf.name for leaf in layer.groups["0"].leaves] == ["bn1", "bn2", "downsample.1"]
    left = [leaf for leaf in layer.all() if not leaf.folded]
    assert [(leaf.name, leaf.about) for leaf in left] == [("bn2", "its output is used twice")]


def test_layers_are_drawn_in_the_order_of_the_model() -> None:
    (one,) = [chart for chart in layer_charts(crowded_report()) if chart.chart]
    chart = ElementTree.fromstring(str(one.chart))
    columns = [rect for rect in chart if (rect.get("class") or "").startswith("column")]
    assert len(columns) == 120
    assert [column.get("class") for column in columns[3:6]] == [
        "column lost", "column back", "column lost",
    ]  # fmt: skip
    tip = columns[4][0].text or ""
    assert tip == (
        "backbone.stage0.block4.attention.qkv_projection (MatMul): 24.0 dB, fp16: its output loses"
        " more than 30 dB"
    )
    assert one.lines[1].startswith("13 in fp16: backbone.stage0.block4.attention.qkv_projection,")
