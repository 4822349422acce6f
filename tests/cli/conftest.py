"""A small network in every form that deployfold reads, and one build of it."""

from __future__ import annotations

import subprocess
import warnings
from pathlib import Path

import pytest
import torch
from cli_runs import QUICK, make, run


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    net, x = make(), torch.randn(2, 3, 16, 16)
    torch.save(net, folder / "net.pt")
    torch.save(net.state_dict(), folder / "weights.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(net, x), folder / "script.ts.pt")
    torch.export.save(torch.export.export(net, (x,)), folder / "program.pt2")
    (folder / "cli_nets.py").write_text(
        "from torch import nn\n\n\ndef make():\n    return nn.Sequential(\n"
        "        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),\n"
        "        nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(576, 10))\n"
    )
    return folder


@pytest.fixture(scope="session")
def built(folder: Path) -> subprocess.CompletedProcess[str]:
    """A build into ``folder/out`` for a GPU that has a compiler here and two that have none."""
    return run(
        "build", "net.pt", "--fp16", "-o", "out", *QUICK,
        "--target", "l4", "--target", "h100", "--target", "jetson-orin-nano",
        "--max-diff-of", "onnxruntime=1", "--max-latency-ms", "pytorch=60000",
        cwd=folder, installed=True,
    )  # fmt: skip
