"""The flags for the engine builder: stored in the sidecar, or left for the device."""

from __future__ import annotations

import json

import onnxruntime
import torch
from cli_runs import run
from torch import nn

FAST = ("--fp16", "--no-measure", "--target", "l4", "--input", "1x3x16x16")


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


def test_options_that_need_the_gpu_are_left_for_the_device(folder, tmp_path):
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


def test_shapes_become_optimization_profiles(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()).eval()
    torch.save(net, tmp_path / "net.pt")
    done = run(
        "build", "net.pt", "--fp16", "--no-measure", "--target", "l4", "-o", "out",
        "--shapes", "1x3x32x32:1x3x32x32:1x3x64x64", "--shapes", "1x3x64x64:4x3x64x64:8x3x64x64",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    sidecar = json.loads(next((tmp_path / "out").glob("*.engine.json")).read_text())
    assert [profile[0]["max"][0] for profile in sidecar["profiles"]] == [1, 8]
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["inputs"][0]["shape"] == [1, 3, 32, 32]
    assert report["fold"]["verification"]["inputs"] == 3  # at another size as well
    session = onnxruntime.InferenceSession(str(tmp_path / "out/net.fp16.onnx"))
    (output,) = session.run(None, {"input": torch.randn(3, 3, 48, 40).numpy()})
    assert output.shape == (3, 8, 48, 40)
