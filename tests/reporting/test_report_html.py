"""The HTML page, read back by a parser, and drawn by a browser where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from rendered import HOSTILE, hostile_report
from report_sample import full_report, sample_report

from deployfold.errors import UsageError
from deployfold.reporting.html import read_outline, render_html
from deployfold.reporting.html.outline import NODES
from deployfold.reporting.report import Report
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


def with_quantiles(report: Report) -> Report:
    rows = [
        row.model_copy(
            update={
                "latency": row.latency.model_copy(
                    update={"quantiles_ms": tuple(row.latency.median_ms + i for i in range(21))}
                )
            }
        )
        if row.latency
        else row
        for row in report.rows
    ]
    return report.model_copy(update={"rows": tuple(rows)})


def test_the_table_is_that_of_the_other_renderings() -> None:
    page = Page(render_html(sample_report()))
    assert page.open == []
    comparison, fold = page.tables
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
    assert len(fold) == 1 + 53
    assert [text for _, text in fold[1]][:2] == ["head.bn", "left"]


def test_everything_that_was_measured_is_drawn() -> None:
    source = render_html(with_quantiles(full_report()))
    labels = re.findall(r'<svg role="img" aria-label="([^"]*)"', source)
    assert labels == [
        "Latency of every artifact", "Size on disk", "Parameters", "SQNR of every layer",
    ]  # fmt: skip
    assert source.count("currentColor") > 100  # in dark as in light
    assert "#010203" not in source
    assert "samples/s by batch" in source
    assert "cold start" in source
    assert "<h2>Stages</h2>" in source
    assert "1.204 GB" in source
    assert "percentile 99.99" in source
    assert '<span class="lost">uncalibrated</span>' in source


def test_a_report_without_quantiles_has_no_latency_chart() -> None:
    assert "Latency of every artifact" not in render_html(sample_report())


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


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_it(width: int, scheme: str, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    (tmp_path / "report.html").write_text(render_html(with_quantiles(full_report())))
    picture = tmp_path / "page.png"
    subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}", "--hide-scrollbars",
            f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
            f"--window-size={width},900", f"--screenshot={picture}",
            (tmp_path / "report.html").as_uri(),
        ],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape == (900, width)
    paper = np.median(pixels)
    assert (paper < 60) if scheme == "dark" else (paper > 200)
    assert (abs(pixels.astype(int) - paper) > 100).mean() > 0.01  # there is ink on it
    # Only the tables scroll sideways: the page leaves its margin free.
    assert (abs(pixels[:, -8:].astype(int) - paper) < 40).all()
