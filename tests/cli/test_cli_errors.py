"""Every failure is one sentence, one hint and a code of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from cli_runs import QUICK, SHAPE, check_whole, fails, run

from deployfold.reporting.report import load_report

INPUT = ("--input", SHAPE)
LONG = "a" * 300
"""Looking at it is an error, as is looking below a directory that may not be searched."""


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (("build", "net.pt", "--input", "3xq"), 2, ("'3xq'", "--input 1x3x224x224")),
        (("build", "net.pt", "--input", "0x3x8x8"), 2, ("empty axis",)),
        (("build", "net.pt", "--input", "a=1x2", "--input", "a=1x2"), 2, ("same input",)),
        (("build", "net.pt", "--target", "rtx4091"), 2, ("rtx4091", "rtx4090")),
        (("build", "net.pt", "--target", "sm_9"), 2, ("sm_9",)),
        (("build", "net.pt", "--dynamic-batch", "8:1"), 2, ("'8:1'", "1:8:32")),
        (("build", "net.pt", "--dynamic-batch", "8:4:1"), 2, ("min <= opt <= max",)),
        (("build", "net.pt", "--io", "int4"), 2, ("'--io'", "'int4'", "'fp16'")),
        (("build", "net.pt", "--max-latency-ms", "pytorch"), 2, ("onnxruntime=12.5",)),
        (("build", "nothing.pt"), 3, ("nothing.pt does not exist",)),
        (("build", "weights.pth"), 3, ("--arch",)),
        (("build", "net.pt", "--input", "1x5x16x16"), 4, ("1x5x16x16", "--input")),
        (("fold", "net.pt", "-o", "net.pt/below.pt", *INPUT), 2, ("Cannot write",)),
        (("bench", "nothing"), 2, ("nothing does not exist",)),
        (("fold", LONG), 3, ("Cannot read aa", "File name too long")),
        (("report", LONG), 2, ("Cannot access aa", "File name too long", "Check the path")),
        (("run", LONG), 2, ("Cannot access aa", "File name too long")),
        (("bundle", LONG), 2, ("Cannot access aa", "File name too long")),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else str(value),
)
def test_errors_are_one_sentence_and_a_code(folder, words, code, expected):
    fails(run(*words, cwd=folder), code, *expected)


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (("build", "nothing.pt"), 3, "nothing.pt does not exist."),
        (("build", "net.pt", "--nothing"), 2, "No such option: --nothing"),
        (("compare", "net.pt", "net.pt"), 2, "net.pt is not a deployfold report"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_json_gives_an_error_as_an_object(folder, words, code, expected):
    done = run(*words, "--json", cwd=folder)
    found = json.loads(done.stdout)
    assert done.returncode == found["exit_code"] == code
    assert found["error"].startswith(expected)
    assert f"Error: {found['error']}" in done.stderr


def test_debug_shows_the_traceback(folder):
    done = run("build", "net.pt", "--input", "3xq", "--debug", cwd=folder)
    assert done.returncode == 2
    assert "Traceback" in done.stderr


class _Malicious:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return os.system, (f"touch {self.victim}",)


def test_a_malicious_pickle_does_not_run(tmp_path):
    victim = tmp_path / "ran"
    torch.save({"state_dict": _Malicious(victim)}, tmp_path / "evil.pt")
    done = run("build", "evil.pt", cwd=tmp_path)
    fails(done, 3, "system", "--allow-global", "--trust")
    assert not victim.exists()
    assert not (tmp_path / "build").exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert victim.exists(), "the file does act when it is trusted"


def test_a_model_that_exits_is_an_error(tmp_path):
    """A pipeline would take exit code 0 for success."""
    (tmp_path / "exits.py").write_text(
        "import sys, torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        sys.exit(0)\n"
        "def make():\n"
        "    return Net(2, 2)\n"
    )
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "net.pt")
    words = ("build", "net.pt", "--arch", "exits:make", "--input", "1x2")
    done = run(*words, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    fails(done, 4, "The model's own code ended the program with 0.")


def test_a_model_that_keeps_state_is_folded_and_not_exported(tmp_path, monkeypatch):
    (tmp_path / "stream.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def __init__(self):\n"
        "        super().__init__(2, 2)\n"
        "        self.register_buffer('last', torch.zeros(1, 2))\n"
        "    def forward(self, x):\n"
        "        self.last += super().forward(x)\n"
        "        return self.last * 1\n"
    )
    torch.save({**torch.nn.Linear(2, 2).state_dict(), "last": torch.ones(1, 2)}, tmp_path / "w.pt")
    words = ("build", "w.pt", "--arch", "stream:Net", "--input", "1x2", "-o", "out")
    done = run(*words, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    fails(done, 5, "keeps state in last from one call to the next", "deployfold fold takes")
    monkeypatch.syspath_prepend(tmp_path)
    assert check_whole(tmp_path / "out") >= {"w.folded.pt", "report.json"}
    assert not list((tmp_path / "out").glob("*.onnx"))
    status = load_report(tmp_path / "out" / "report.json").status
    assert (status.state, status.stage) == ("failed", "export")


def test_missed_limits_have_a_code_of_their_own(folder, tmp_path):
    done = run(
        "build", "net.pt", "--fp16", "--no-engine", "-o", str(tmp_path), *QUICK,
        "--min-speedup", "1000000", "--max-diff", "0", "--max-latency-ms", "pytorch=0.000001",
        "--max-latency-ms", "onnxruntime=60000", "--max-latency-ms", "nothing=5",
        cwd=folder,
    )  # fmt: skip
    fails(
        done, 7, "min-speedup", "max-diff", "(pytorch)", "not measured (nothing)",
        "The rows are folded, onnxruntime",
    )  # fmt: skip
    report = load_report(tmp_path / "report.json")
    assert report.status.state == "complete"
    assert [result.passed for result in report.thresholds] == [False, False, False, True, False]
    assert "PyTorch, folded" in done.stdout, "the table comes before the verdict"


@pytest.mark.skipif(os.name != "posix" or not Path("/proc").is_dir(), reason="mounts a tmpfs")
def test_a_build_on_a_full_disk_leaves_whole_files(folder, tmp_path):
    """Full at the engine; tests/util/test_files.py fills it earlier."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        words = ("--fp16", "--target", "l4", "-o", str(tmp_path), "--no-measure")
        done = run("build", "net.pt", *words, *QUICK, cwd=folder)
        fails(done, 2, "No space left on device", "Free some space")
        names = check_whole(tmp_path)
        assert names >= {"net.folded.pt", "net.fp16.onnx"}
        assert not [name for name in names if name.endswith(".engine")]
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)
