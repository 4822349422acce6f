"""What the engine builder is told by flags: kept in the sidecar, or left for the device."""

from __future__ import annotations

import json

from cli_runs import run

FAST = ("--fp16", "--no-measure", "--target", "l4", "--input", "1x3x16x16")
EXTRA = ("--strip-plan", "--torch-tensorrt")


def test_options_reach_the_engine(folder, tmp_path):
    done = run(
        "build", "net.pt", *FAST, "-o", str(tmp_path / "out"),
        "--weight-streaming", "--optimization-level", "1", "--workspace", "64",
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    sidecar = json.loads(next((tmp_path / "out").glob("*.engine.json")).read_text())
    assert sidecar["options"]["weight_streaming"] is True
    assert sidecar["options"]["optimization_level"] == 1
    assert sidecar["workspace_mib"] == 64


def test_options_that_need_the_gpu_are_left_for_it(folder, tmp_path):
    out = tmp_path / "out"
    done = run(
        "build", "net.pt", *FAST, "-o", str(out), "--strip-plan", "--torch-tensorrt", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert not list(out.glob("*.engine"))
    rows = {row["name"]: row for row in json.loads((out / "report.json").read_text())["rows"]}
    assert "weight-stripped" in rows["tensorrt-fp16-l4"]["not_measured"]
    (engine,) = json.loads((out / "finish.json").read_text())["engines"]
    assert engine["target"] == "l4"
    assert engine["options"]["strip_plan"] is True
    assert "not installed" in rows["torch-tensorrt-fp16"]["not_measured"]


def test_options_that_exclude_each_other_are_refused_before_anything_runs(folder):
    done = run("build", "net.pt", *FAST, "--exclude-lean-runtime", cwd=folder)
    assert done.returncode == 2
    assert "version-compatible" in done.stderr
