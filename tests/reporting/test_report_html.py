"""The HTML page, read back by a parser, and drawn by a browser where there is one."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rendered import HOSTILE, hostile_report
from report_sample import full_report, sample_report, with_quantiles

from deployfold.errors import UsageError
from deployfold.reporting.html import read_outline, render_html, render_pages
from deployfold.reporting.html.outline import NODES
from deployfold.reporting.layers import LayerTimes, TimedLayer
from deployfold.reporting.text import clean

VOID = {"meta", "br", "link", "img", "input", "hr"}
DRAWN = {"path", "use", "rect", "stop", "circle", "line"}


class Page(HTMLParser):
    """The elements, the cells of every table with their classes, and what is left open."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[tuple[str, str]]]] = []
        self.rows: list[bool] = []
        """Of every row of a table, whether it is marked as the one to take."""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.rows.append("chosen" in (found.get("class") or ""))
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append((found.get("class") or "", ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            kind, text = self.tables[-1][-1][-1]
            self.tables[-1][-1][-1] = (kind, text + data)


def test_the_table_is_that_of_the_other_renderings() -> None:
    page = Page(render_html(sample_report()))
    assert page.open == []
    (comparison,) = page.tables
    assert [text for _, text in comparison[0]][:3] == ["artifact", "parameters", "BN"]
    assert [row[0][1] for row in comparison[1:]] == [
        "PyTorch",
        "PyTorch, folded",
        "TorchScript",
        "torch.export",
        "ONNX Runtime",
        "ONNX Runtime fp16 ¹",
        "TensorRT-RTX fp16 sm_89",
    ]
    assert comparison[5][7] == ("best number", "2.06× [2.04, 2.09]")
    assert comparison[6][9] == ("lost number", "18.2 dB")
    assert comparison[7][7] == ("absent number", "not measured ²")
    chosen = [row[0][1] for row, tag in zip(comparison[1:], page.rows[1:], strict=True) if tag]
    assert chosen == ["ONNX Runtime"]


def test_everything_that_was_measured_is_drawn() -> None:
    source = render_html(with_quantiles(full_report()))
    labels = re.findall(r'<svg role="img" aria-label="([^"]*)"', source)
    assert labels[0] == "Latency against accuracy of every measured artifact"
    assert "PyTorch: median 71.2 ms, 90 % of calls from 62.2 to 80.2 ms" in labels
    assert "load: 2.6 s" in labels
    assert "samples/s by batch" in source
    assert "Cold start" in source
    assert "1.204 GB" in source
    assert "percentile 99.99" in source
    assert '<span class="lost">uncalibrated</span>' in source


def test_the_page_begins_with_what_to_take() -> None:
    source = render_html(sample_report())
    verdict = (
        "ONNX Runtime: 2.06× as fast as PyTorch here [2.04,\u00a02.09] (not stable), the same"
        " outputs to float32 rounding, 102.1 MB."
    )
    assert source.index(verdict) < source.index("<svg") < source.index("<table")


def test_rows_outside_the_chart_are_listed_beside_it() -> None:
    source = render_html(sample_report())
    aside = source[source.index("<aside>") : source.index("</aside>")]
    assert "<b>TensorRT-RTX fp16 sm_89</b> <small>51.93 MB</small>" in aside
    assert "built for sm_89; measure it there: deployfold bench DIR" in aside


def test_the_page_has_the_command_that_repeats_the_build() -> None:
    report = sample_report()
    options = {"fp16": True, "int8": False, "target": ["l4", "a10"], "calib": "my pictures"}
    source = render_html(report.model_copy(update={"options": options}))
    command = "deployfold build resnet50.pt --fp16 --target l4 --target a10 --calib 'my pictures'"
    assert command in unescape(source)
    assert "pip install deployfold==0.1.0 torch==2.14.1 onnxruntime==1.32.0" in source
    assert "deployfold build resnet50.pt" not in render_html(report)  # an older report


def test_several_reports_make_one_page() -> None:
    later = sample_report().model_copy(update={"created": "2026-03-04T05:06:07Z"})
    source = render_pages([(sample_report(), None), (later, None)])
    page = Page(source)
    assert page.open == []
    assert [row[1][1] for row in page.tables[0][1:]] == [
        "2026-01-02 03:04", "2026-03-04 05:06",
    ]  # fmt: skip
    assert [row[2][1] for row in page.tables[0][1:]] == ["ONNX Runtime"] * 2
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len(set(ids))
    nav = re.findall(r'href="#report-\d">(.*?)</a>', source)
    assert nav == ["resnet50.pt, 2026-01-02 03:04", "resnet50.pt, 2026-03-04 05:06"]
    links = [found["href"] for tag, found in page.tags if tag == "a"]
    assert {(link or "").removeprefix("#") for link in links} <= set(ids)


def test_a_report_without_quantiles_has_no_latency_chart() -> None:
    assert "Distribution of the calls" not in render_html(sample_report())


def test_the_page_loads_and_runs_nothing() -> None:
    page = Page(render_html(with_quantiles(full_report())))
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object"}
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("src", "action")
            assert name != "href" or (value or "").startswith("#")
    policy = next(found for tag, found in page.tags if tag == "meta" and "http-equiv" in found)
    assert (policy["content"] or "").startswith("default-src 'none'")


def test_hostile_names_are_text() -> None:
    honest, page = Page(render_html(sample_report())), Page(render_html(hostile_report()))
    assert page.open == []
    ours = [tag for tag, _ in honest.tags if tag not in DRAWN]
    theirs = {tag for tag, _ in page.tags if tag not in DRAWN}
    assert theirs <= {*ours, "clippath"}
    assert clean(HOSTILE) in page.tables[0][1][0][1]


def test_a_name_may_look_like_a_formula() -> None:
    report = with_quantiles(sample_report())
    first = report.rows[0].model_copy(update={"title": r"$\frac{1}{ $"})
    source = render_html(report.model_copy(update={"rows": (first, *report.rows[1:])}))
    assert r"$\frac{1}{ $" in source


def test_equal_reports_give_equal_pages() -> None:
    report = with_quantiles(full_report())
    assert render_html(report) == render_html(report)


def test_the_graph_is_outlined(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((2, 4), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], name="<b>fc</b>", transB=1)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [weight],
    )
    onnx.save(helper.make_model(graph), tmp_path / "net.onnx")
    outline = read_outline(tmp_path / "net.onnx")
    assert (outline.inputs, outline.outputs) == (("x batch×4",), ("y batch×2",))
    assert (outline.nodes[0].shape, outline.nodes[0].weights, outline.hidden) == ("batch×2", 8, 0)
    page = Page(render_html(sample_report(), outline))
    assert [text for _, text in page.tables[-1][1]] == ["Gemm", "<b>fc</b>", "batch×2", "8"]


def test_a_long_graph_is_cut(tmp_path: Path) -> None:
    names = [f"t{index}" for index in range(NODES + 4)]
    nodes = [helper.make_node("Relu", [a], [b]) for a, b in pairwise(names)]
    infos = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in (names[0], names[-1])
    ]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:])
    onnx.save(helper.make_model(graph), tmp_path / "net.onnx")
    assert read_outline(tmp_path / "net.onnx").hidden == 3


def test_no_onnx_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"\x08nothing")
    with pytest.raises(UsageError, match="cannot be read as ONNX"):
        read_outline(tmp_path / "net.onnx")


def test_a_notebook_shows_the_page_in_a_frame() -> None:
    shown = sample_report()._repr_html_()
    assert shown is not None
    (frame,) = Page(shown).tags
    assert frame[0] == "iframe"
    inner = Page(frame[1]["srcdoc"] or "")
    assert inner.open == []
    assert len(inner.tables) == 1
    assert "a" not in {tag for tag, _ in inner.tags}


def test_the_time_of_each_module_is_on_the_page() -> None:
    report = sample_report()
    layers = tuple(
        TimedLayer(name=f"/layer{i}/Conv", kind="Conv", ms=1.0 + i, module=f"layer{i}.conv")
        for i in range(20)
    )
    timed = report.rows[4].model_copy(update={"layer_times": LayerTimes(layers=layers, calls=7)})
    unknown = LayerTimes(not_measured="TorchScript has no times of layers")
    untimed = report.rows[2].model_copy(update={"layer_times": unknown})
    rows = (*report.rows[:2], untimed, report.rows[3], timed, *report.rows[5:])
    source = render_html(report.model_copy(update={"rows": rows}))
    page = Page(source)
    assert page.open == []
    times = page.tables[1]
    assert len(times) == 1 + 20  # every module, the slowest first
    assert [text for _, text in times[1]] == ["layer19.conv", "Conv", "20.0", "9.5 %"]
    assert "TorchScript: TorchScript has no times of layers" in source
    assert 'href="#times"' in source
