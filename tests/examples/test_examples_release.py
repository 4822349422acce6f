"""The scripts of the release stage and of the packaging for an edge device run unchanged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from deployfold.bundle.scan import scan

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="they are shell scripts")
FLAGS = "--fp16 --target l4 --input 1x3x16x16 --max-seconds 0.5 --threads 1"


def save(path: Path, channels: int = 8) -> Path:
    """A small trained-looking network as TorchScript, which is the quickest to build."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, channels, 3, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10),
    ).eval()  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(net, torch.randn(1, 3, 16, 16)), path)
    return path


def run(script: str, *words: str | Path, cwd: Path, **settings: str):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [EXAMPLES / script, *words],
        cwd=cwd, env={**os.environ, "PATH": path, **settings}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done


def release(cwd: Path, model: Path, version: str, **settings: str):
    return run("release_stage.sh", model, version, cwd=cwd, **{"BUILD_FLAGS": FLAGS, **settings})


def test_a_release_is_published_once(tmp_path: Path) -> None:
    model = save(tmp_path / "net.ts.pt")
    done = release(tmp_path, model, "v1")
    assert done.returncode == 0, done.stderr
    home = tmp_path / "releases" / "v1"
    assert {path.name for path in home.iterdir()} == {
        "model.tar.zst", "model.tar.zst.sha256", "report.json", "report.md", "inputs.sha256",
    }  # fmt: skip
    assert scan(home / "model.tar.zst").targets == ("sm_89",)
    subprocess.run(["sha256sum", "-c", "model.tar.zst.sha256"], cwd=home, check=True)
    assert (tmp_path / "releases" / "latest").read_text() == "v1\n"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = release(tmp_path, model, "v1")
    assert again.returncode == 0, again.stderr
    assert "published already" in again.stdout
    other = release(tmp_path, model, "v1", GATE_FLAGS="--max-diff-of onnxruntime=0.2")
    assert other.returncode == 2
    assert "other settings" in other.stderr
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.slow
def test_a_release_that_is_worse_is_not_published(tmp_path: Path) -> None:
    model = save(tmp_path / "net.ts.pt")
    first = model.read_bytes()  # a second trace in this process has other names inside
    assert release(tmp_path, model, "v1").returncode == 0
    missed = release(tmp_path, model, "v2", GATE_FLAGS="--max-diff-of onnxruntime=1e-12")
    assert missed.returncode == 7
    assert "v2 is not published" in missed.stderr
    save(model, channels=16)
    worse = release(tmp_path, model, "v2")
    assert worse.returncode == 7, worse.stderr
    assert "worse than v1" in worse.stderr
    releases = tmp_path / "releases"
    assert {path.name for path in releases.iterdir()} == {
        "v1", "latest", "last-attempt.json", "last-attempt.md",
    }  # fmt: skip
    assert "parameters" in (releases / "last-attempt.md").read_text()
    # The latency of so small a net depends on what else the machine does.
    flags = "--fail parameters=200% --fail bytes=200% --fail latency=never"
    allowed = release(tmp_path, model, "v2", COMPARE_FLAGS=flags)
    assert allowed.returncode == 0, allowed.stderr
    assert (releases / "latest").read_text() == "v2\n"
    assert (releases / "v2" / "compare.md").is_file()
    assert {path.name for path in releases.iterdir()} == {"v1", "v2", "latest"}
    bundle = releases / "v1" / "model.tar.zst"
    bundle.write_bytes(bundle.read_bytes()[:-1])
    model.write_bytes(first)
    assert release(tmp_path, model, "v1").returncode == 10
    refused = run("package_edge_device.sh", "net.ts.pt", "jetson-orin-mega", cwd=tmp_path)
    assert refused.returncode == 2
    broken = release(tmp_path, tmp_path / "gone.pt", "v3")
    assert broken.returncode == 3
    assert run("release_stage.sh", cwd=tmp_path).returncode == 2
    assert release(tmp_path, model, "../v4").returncode == 2


def test_an_edge_device_gets_a_bundle_that_was_tried(tmp_path: Path) -> None:
    from PIL import Image

    save(tmp_path / "net.ts.pt")
    Image.new("RGB", (40, 30), (90, 20, 60)).save(tmp_path / "picture.png")
    done = run(
        "package_edge_device.sh", "net.ts.pt", "jetson-orin-nano", "edge.tar.zst",
        cwd=tmp_path, BUILD_FLAGS="--no-measure --input 1x3x16x16",
        PICTURE=str(tmp_path / "picture.png"), PYTHON=sys.executable,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "reference: as it was built" in done.stdout
    top = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("     ")]
    assert len(top) == 5
    assert "deployfold finish net" in done.stdout, "nothing here builds for a Jetson"
    manifest = scan(tmp_path / "edge.tar.zst")
    assert manifest.targets == ()
    assert "finish.json" in {entry.path for entry in manifest.files}
    assert {path.name for path in tmp_path.iterdir()} == {
        "net.ts.pt", "picture.png", "edge.tar.zst",
    }  # fmt: skip


def test_the_workflow_calls_what_is_there() -> None:
    yaml = pytest.importorskip("yaml")
    from typer.main import get_command

    from deployfold.cli.app import app

    text = (EXAMPLES / "github_actions_release.yml").read_text()
    job = yaml.safe_load(text)["jobs"]["model"]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)
    (stage,) = [command for command in commands if "release_stage.sh" in command]
    script = Path(__file__).parents[2] / stage.split()[0]
    assert os.access(script, os.X_OK)
    flags = f"{job['env']['BUILD_FLAGS']} {job['env']['GATE_FLAGS']}".split()
    build = get_command(app).commands["build"]
    given = build.make_context("build", ["model.pt", *flags]).params
    assert given["max_diff_of"] == ["onnxruntime=0.1"]
    assert given["target"] == ["l4", "rtx4090"]
    used = set(json.loads(json.dumps(job["env"])))
    assert used >= {"MODEL", "BUILD_FLAGS", "GATE_FLAGS"}
