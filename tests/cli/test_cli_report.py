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
    done = run("report", "out/report.json", "-o", str(page), "--svg", str(picture), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    text = page.read_text(encoding="utf-8")
    assert "Latency against accuracy" in text
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


def test_a_directory_without_a_report_is_an_error(folder, tmp_path):
    fails(run("report", str(tmp_path), cwd=folder), 2, "Cannot read")


def test_a_build_writes_its_page(folder):
    words = ("--input", "2x3x16x16", "--no-measure", "--no-engine", "--html", "-o", "paged")
    done = run("build", "net.pt", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    text = (folder / "paged" / "report.html").read_text(encoding="utf-8")
    assert "net.onnx" in text
    assert "Stages of the build" in text


def test_the_page_opens_in_the_browser(folder, built, tmp_path):
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf "%s" "$1" > {opened}\n')
    browser.chmod(0o755)
    page = tmp_path / "the page.html"
    words = ("--open", "-o", str(page))
    done = run("report", "out", *words, cwd=folder, BROWSER=f"{browser} %s")
    assert done.returncode == 0, done.stderr
    assert opened.read_text() == page.as_uri()
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_several_reports_make_one_page(folder, built, tmp_path):
    page = tmp_path / "releases.html"
    done = run("report", "out", "out/report.json", "--html", "-o", str(page), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert page.read_text(encoding="utf-8").count("<article") == 2
    shown = run("report", "out", "out", cwd=folder)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("net.pt") == 2


def test_a_page_among_the_reports_is_an_error(folder, built):
    done = run("report", "out", "--html", "page.html", cwd=folder)
    fails(done, 2, "page.html is a page, not a report.")
    assert "--output" in done.stderr


def test_the_report_holds_the_command(folder, built):
    report = json.loads((folder / "out" / "report.json").read_text())
    assert report["options"]["fp16"] is True
    assert report["options"]["target"] == ["l4", "h100", "jetson-orin-nano"]
    page = folder / "out" / "page.html"
    run("report", "out", "-o", str(page), cwd=folder)
    text = page.read_text(encoding="utf-8")
    assert "deployfold build net.pt --fp16" in text
