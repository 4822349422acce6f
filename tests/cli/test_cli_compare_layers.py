"""``deployfold compare A B --layers`` on the artifacts of one build."""

from __future__ import annotations

import json

import onnx
import pytest
from cli_runs import fails, run
from onnx import numpy_helper


@pytest.fixture(scope="module")
def broken(folder, built, tmp_path_factory):
    """The build's ONNX with its middle convolution turned round."""
    model = onnx.load(folder / "out" / "net.onnx")
    (weight,) = [tensor for tensor in model.graph.initializer if tensor.name == "3.weight"]
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
    path = tmp_path_factory.mktemp("layers") / "broken.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("new", ["net.folded.pt", "net.onnx", "net.fp16.onnx"])
def test_nothing_departs_in_a_build(folder, built, new):
    done = run("compare", "net.pt", f"out/{new}", "--layers", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "No layer departs" in done.stdout
    assert "Conv2d + BN" in done.stdout
    assert "2x3x16x16" in done.stdout  # from the report of the build


def test_the_first_layer_that_departs_has_exit_code_7_and_is_named(folder, broken):
    words = ("compare", "net.pt", str(broken), "--layers", "--markdown", "m.md")
    done = run(*words, cwd=folder, COLUMNS="80")
    fails(done, 7, "The first layer that departs is 3 (with 4 folded in)", "below 60 dB")
    (line,) = [line for line in done.stdout.splitlines() if "◀ first" in line]
    assert line.split()[0] == "3"
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert "**" in (folder / "m.md").read_text()
    as_json = run(*words, "--json", cwd=folder)
    assert as_json.returncode == 7
    layers = json.loads(as_json.stdout)["layers"]
    assert next(layer["name"] for layer in layers if layer["departs"]) == "3"
    assert layers[0]["departs"] is None
    assert run(*words, "--min-sqnr", "-100", cwd=folder).returncode == 0


def test_names_from_a_file_cannot_reach_the_terminal(folder, broken, tmp_path):
    model = onnx.load(folder / "out" / "net.onnx")
    for node in model.graph.node:
        node.metadata_props[0].value = f"x\x1b[2J[red]{node.metadata_props[0].value}"
    onnx.save(model, tmp_path / "named.onnx")
    words = ("named.onnx", str(broken), "--layers", "--markdown", "m.md")
    done = run("compare", *words, cwd=tmp_path)
    fails(done, 7, "first layer that departs is x[2J[red]3")
    assert "\x1b" not in done.stdout + done.stderr + (tmp_path / "m.md").read_text()
    assert "x[2J[red]0" in done.stdout


def test_options_of_the_other_comparison_are_refused(folder, built):
    both = ("compare", "net.pt", "out/net.onnx")
    fails(run(*both, "--layers", "--fail", "bytes=1%", cwd=folder), 2, "--fail is for two reports")
    fails(run(*both, "--min-sqnr", "30", cwd=folder), 2, "Add --layers")
    fails(run("compare", "out", "out", "--layers", cwd=folder), 2, "directory", "net.onnx")
    fails(run(*both[:2], "no.onnx", "--layers", cwd=folder), 2, "no.onnx does not exist")
    fails(run("compare", "net.pt", "script.ts.pt", "--layers", cwd=folder), 2, "compiled graph")
    wrong = run("compare", "weights.pth", "net.pt", "--layers", cwd=folder)
    assert wrong.returncode == 3, wrong.stderr
