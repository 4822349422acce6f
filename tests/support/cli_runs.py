"""Runs the ``deployfold`` command in a new process, and checks every run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sysconfig
import warnings
from pathlib import Path

import onnx
import torch
from fork_server import AVAILABLE, CHANGEABLE, run_forked
from torch import nn

DEPLOYFOLD = str(Path(sysconfig.get_path("scripts")) / "deployfold")
SHAPE = "2x3x16x16"
# One thread: two that wait for each other are a hundred times slower beside a busy neighbour.
QUICK = ("--input", SHAPE, "--threads", "1", "--max-seconds", "0.5")
PARAMETERS, FOLDED_PARAMETERS = 6302, 6302 - 2 * 8 + 8 - 2 * 4  # 8: the first layer's new bias


def make() -> nn.Module:
    """Two convolutions, one without a bias, each with a BatchNorm: 6,302 parameters."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3),
        nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 12 * 12, 10),
    )  # fmt: skip
    for module in net:
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return net.eval()


def environment(**changes: str | None) -> dict[str, str]:
    """The environment of the command, as from the user's shell; ``None`` removes a variable."""
    wanted = {**os.environ, "COLUMNS": "120", **changes}
    for name in ("NO_COLOR", "FORCE_COLOR", "PYTHONPATH"):
        if name not in changes:
            wanted[name] = None
    return {name: value for name, value in wanted.items() if value is not None}


def run(
    *words: str, cwd: Path, installed: bool = False, **changes: str | None
) -> subprocess.CompletedProcess[str]:
    """Run ``deployfold WORDS``. The run fails on a warning, and on a traceback without --debug.

    Args:
        installed: start the installed command; else it runs in a fork that has the libraries
            imported, unless ``changes`` are read while they are.
    """
    variables = environment(**changes)
    if AVAILABLE and not installed and CHANGEABLE.issuperset(changes):
        done = run_forked(list(words), cwd, variables)
    else:
        done = subprocess.run(
            [DEPLOYFOLD, *words],
            cwd=cwd,
            env=variables,
            capture_output=True,
            encoding="utf-8",
            timeout=300,
            check=False,
        )
    if "--debug" not in words:
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        assert "Internal error" not in done.stderr, done.stderr
    assert "Warning:" not in done.stderr, done.stderr
    return done


def fails(done: subprocess.CompletedProcess[str], code: int, *expected: str) -> str:
    """The run ended with ``code`` and one sentence, then at most one line of hint; returns both."""
    assert done.returncode == code, done.stderr
    lines = done.stderr.splitlines()
    (start,) = [number for number, line in enumerate(lines) if line.startswith("Error: ")]
    assert len(lines) <= start + 2, done.stderr
    assert lines[start].endswith((".", "?")) or len(lines) == start + 2, done.stderr
    for words in expected:
        assert words in "\n".join(lines[start:]), done.stderr
    return "\n".join(lines[start:])


def colours(text: str) -> list[str]:
    """The escape sequences in ``text`` that set a colour."""
    return re.findall(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9\d)(?:;\d+)*m", text)


def check_whole(directory: Path) -> set[str]:
    """Check that no temporary file is left and every artifact can be used; return the names."""
    names = {path.name for path in directory.iterdir()}
    assert not {name for name in names if ".tmp" in name}, names
    for path in directory.iterdir():
        check_usable(path)
        if path.suffix == ".engine":
            sidecar = json.loads(Path(f"{path}.json").read_text())
            assert sidecar["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    return names


def check_usable(path: Path) -> bool:
    """Load a model in a format of PyTorch or ONNX; return whether the file is one."""
    if path.name.endswith((".ts.pt", "model.pt")):  # Triton has another name for TorchScript
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.load(str(path))
    elif path.suffix == ".pt":
        torch.load(path, weights_only=False)
    elif path.suffix == ".pt2":
        torch.export.load(path)
    elif path.suffix == ".onnx":
        onnx.checker.check_model(onnx.load(path), full_check=True)
    else:
        return False
    return True
