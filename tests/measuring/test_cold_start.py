"""Load to first output in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter

from deployfold.measuring.cold_start import cold_start, main, opened_file
from deployfold.runtimes.eager import EagerRunner
from deployfold.runtimes.onnxruntime import OnnxRuntimeRunner
from deployfold.runtimes.settings import RunSettings
from deployfold.runtimes.torchscript import TorchScriptRunner
from deployfold.util.memory import peak_bytes

SETTINGS = RunSettings(threads=1, trust=True)
WEIGHTS = 64 << 20  # bytes


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 64 MiB of weights, which its memory must show."""
    path = tmp_path_factory.mktemp("cold") / "net.ts.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = torch.nn.Linear(1024, WEIGHTS // 4 // 1024)
        torch.jit.trace(net, torch.zeros(1, 1024)).save(str(path))
    return path


def test_a_file_is_loaded_and_run_in_fresh_processes(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "torch.py").write_text("raise SystemExit('the worker imported my torch.py')\n")
    held = bytearray(300 << 20)  # ru_maxrss of a child begins at ours, which hides its own
    result = cold_start("torchscript", script, (torch.zeros(1, 1024),), settings=SETTINGS, runs=1)
    assert len(held)
    assert result.not_measured is None
    assert result.runs == 1
    assert result.load_ms is not None
    assert result.first_ms is not None
    assert result.total_ms == pytest.approx(result.load_ms + result.first_ms)
    assert 0 < result.total_ms < 60_000
    if peak_bytes() is not None:
        assert result.peak_bytes is not None
        assert WEIGHTS <= result.peak_bytes < 5 * WEIGHTS


def test_a_failure_is_the_reason(script: Path) -> None:
    result = cold_start("torchscript", script, (torch.zeros(1, 7),), runs=1)
    assert result.total_ms is None
    assert "failed" in (result.not_measured or "")
    assert script.name in (result.not_measured or "")


def test_the_worker_prints_why_a_file_cannot_be_loaded(
    script: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save([torch.zeros(1, 1024)], tmp_path / "x.pt")
    assert main(["onnxruntime", str(script), str(tmp_path / "x.pt")]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert "cannot be loaded" in error
    assert script.name in error


def test_a_process_that_hangs_is_ended(script: Path) -> None:
    result = cold_start("torchscript", script, (torch.zeros(1, 1024),), runs=1, timeout=0.01)
    assert result.not_measured == "the process took longer than 0.01 s"


def test_only_files_start_cold(script: Path) -> None:
    settings = RunSettings(threads=3)
    assert opened_file(TorchScriptRunner(script, settings)) == ("torchscript", settings)
    assert opened_file(OnnxRuntimeRunner(script, settings)) == ("onnxruntime", settings)
    assert opened_file(EagerRunner(torch.nn.Identity())) is None
    assert opened_file(None) is None


def test_the_worker_can_be_run_by_hand(script: Path, tmp_path: Path) -> None:
    torch.save([torch.zeros(1, 1024)], tmp_path / "x.pt")
    words = [
        "torchscript",
        str(script),
        str(tmp_path / "x.pt"),
        TypeAdapter(RunSettings).dump_json(SETTINGS).decode(),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "deployfold.measuring.cold_start", *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert '"load_ms"' in done.stdout
