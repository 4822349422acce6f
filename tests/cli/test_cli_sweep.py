"""``deployfold sweep`` builds only missing results, and continues after it was killed."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runs import DEPLOYFOLD, SHAPE, environment, make, run

FLEET = f"""
precisions = ["fp32", "fp16"]
targets = ["l4", "h100"]
jobs = 1
[build]
no-measure = true
input = ["{SHAPE}"]
[[model]]
source = "net.pt"
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    torch.save(make(), tmp_path / "net.pt")
    (tmp_path / "fleet.toml").write_text(FLEET, encoding="utf-8")
    # A file of the user with the name of a module of Python's: no build may import it.
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    return tmp_path


def cells(directory: Path) -> dict[tuple[str, str], dict[str, object]]:
    found = json.loads((directory / "build/fleet/sweep.json").read_text())["cells"]
    return {(cell["precision"], cell["target"]): cell for cell in found}


def test_only_what_is_missing_is_built(fleet: Path) -> None:
    text = FLEET.replace('"fp32", ', "")  # each build is a process of ten seconds
    (fleet / "fleet.toml").write_text(text)
    first = run("sweep", "fleet.toml", "--json", cwd=fleet)
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["cells"] == list(cells(fleet).values())
    states = {key: cell["state"] for key, cell in cells(fleet).items()}
    assert states == {("fp16", "l4"): "built", ("fp16", "h100"): "to finish"}
    built = cells(fleet)["fp16", "l4"]
    engine = fleet / "build/fleet" / str(built["directory"]) / str(built["artifact"])
    assert engine.stat().st_size == built["bytes"]
    written = engine.stat().st_mtime_ns

    (fleet / "fleet.toml").write_text(text.replace('"h100"]', '"h100", "rtx5090"]'))
    plan = run("sweep", "fleet.toml", "--dry-run", cwd=fleet).stdout
    assert plan.count("--target") == 1
    assert plan.count("rtx5090") == 1
    again = run("sweep", "fleet.toml", cwd=fleet)
    assert again.returncode == 0, again.stderr
    assert "3 of 3, 2 of them from an earlier run" in again.stderr
    assert cells(fleet)["fp16", "rtx5090"]["state"] == "built"
    assert engine.stat().st_mtime_ns == written


@pytest.mark.slow
def test_a_killed_sweep_goes_on(fleet: Path) -> None:
    process = subprocess.Popen(
        [DEPLOYFOLD, "sweep", "fleet.toml"], cwd=fleet, env=environment(), stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while not list(fleet.glob("build/fleet/net/fp*/job.json")):  # not that of a .work- directory
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (kept,) = [path.parent for path in fleet.glob("build/fleet/net/fp*/job.json")]
    written = (kept / "job.json").stat().st_mtime_ns
    while not list(fleet.glob("build/fleet/net/.work-*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = run("sweep", "fleet.toml", cwd=fleet)
    assert done.returncode == 0, done.stderr
    assert (kept / "job.json").stat().st_mtime_ns == written
    assert {key: cell["state"] for key, cell in cells(fleet).items()} == {
        ("fp32", "l4"): "built",
        ("fp32", "h100"): "to finish",
        ("fp16", "l4"): "built",
        ("fp16", "h100"): "to finish",
    }
    assert not list(fleet.glob("build/fleet/net/.work-*"))


@pytest.mark.slow
def test_one_that_fails_does_not_stop_the_others(fleet: Path) -> None:
    (fleet / "bad.pt").write_bytes(b"PK truncated")
    text = FLEET.replace('"fp32", ', "") + '[[model]]\nsource = "bad.pt"\n'
    (fleet / "fleet.toml").write_text(text)
    done = run("sweep", "fleet.toml", cwd=fleet)
    assert done.returncode == 11
    assert "2 of 4 could not be built" in done.stderr
    found = json.loads((fleet / "build/fleet/sweep.json").read_text())["cells"]
    assert [cell["state"] for cell in found] == ["built", "to finish", "failed", "failed"]
    assert "bad.pt" in found[2]["message"]


def test_a_dry_run_refuses_what_no_machine_builds(fleet: Path) -> None:
    text = FLEET.replace('"fp32", ', '"fp8", ').replace('"h100"]', '"jetson-agx-orin"]')
    text = text.replace("no-measure = true", 'no-measure = true\ncalib = "random"')
    (fleet / "fleet.toml").write_text(text)
    done = run("sweep", "fleet.toml", "--dry-run", cwd=fleet)
    assert done.returncode == 11, done.stderr
    assert "net fp8 for jetson-agx-orin: No fp8 engine for sm_87" in done.stderr
    assert "fp16 for" not in done.stderr


def test_latency_is_not_measured_beside_other_builds(fleet: Path) -> None:
    (fleet / "fleet.toml").write_text(FLEET.replace("no-measure = true", ""))
    done = run("sweep", "fleet.toml", "--jobs", "2", cwd=fleet)
    assert done.returncode == 2
    assert "Latency cannot be measured" in done.stderr


@pytest.mark.slow
def test_one_build_makes_all_precisions_and_goes_apart_where_one_fails(fleet: Path) -> None:
    text = FLEET.replace('"fp32", "fp16"', '"fp16", "int8"').replace(', "h100"', "")
    np.save(fleet / "x.npy", np.zeros((8, 7), np.float32))  # INT8 cannot be calibrated on it
    (fleet / "fleet.toml").write_text(text.replace("[build]", '[build]\ncalib = "x.npy"'))
    done = run("sweep", "fleet.toml", cwd=fleet)
    assert done.returncode == 11
    assert cells(fleet)["fp16", "l4"]["state"] == "built"
    assert cells(fleet)["int8", "l4"]["state"] == "failed"
    assert "x.npy" in str(cells(fleet)["int8", "l4"]["message"])

    (fleet / "fleet.toml").write_text(text.replace("[build]", '[build]\ncalib = "random"'))
    done = run("sweep", "fleet.toml", cwd=fleet)
    assert done.returncode == 0, done.stderr
    found = cells(fleet)
    assert [cell["state"] for cell in found.values()] == ["built", "built"]
    assert found["fp16", "l4"]["directory"] == found["int8", "l4"]["directory"]
    assert found["fp16", "l4"]["artifact"] != found["int8", "l4"]["artifact"]
