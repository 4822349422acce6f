"""``deployfold report``: a build's report again, as a page and as a picture."""

from __future__ import annotations

import json
from xml.etree import ElementTree

from cli_runs import fails, run
from jsonschema import validate


def test_the_table_is_shown_again(folder, built):
    done = run("report", "out", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "TensorRT-RTX fp16" in done.stdout


def test_a_page_and_a_picture_are_written(folder, built, tmp_path):
    page, picture = tmp_path / "report.html", tmp_path / "table.svg"
    done = run("report", "out/report.json", "--html", str(page), "--svg", str(picture), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    text = page.read_text(encoding="utf-8")
    assert "Latency of every artifact" in text
    assert "net.onnx" in text
    assert "Conv" in text
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")
    drawn = picture.read_text(encoding="utf-8")
    assert "@font-face" not in drawn
    assert "PyTorch" in drawn


def test_a_build_keeps_the_schema_that_is_printed(folder, built):
    done = run("report", "--schema", cwd=folder)
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "out" / "report.json").read_text())
    assert report["stages"]
    validate(report, json.loads(done.stdout))


def test_what_is_no_report_is_a_sentence(folder, tmp_path):
    fails(run("report", str(tmp_path), cwd=folder), 2, "Cannot read")


def test_a_build_writes_its_page(folder):
    words = ("--input", "2x3x16x16", "--no-measure", "--no-engine", "--html", "-o", "paged")
    done = run("build", "net.pt", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    text = (folder / "paged" / "report.html").read_text(encoding="utf-8")
    assert "net.onnx" in text
    assert "peak memory" in text
