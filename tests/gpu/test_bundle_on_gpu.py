"""``run.py`` of a bundle on a machine with a GPU: it takes the engine for it, and is right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gpu_nets import GpuNet

from deployfold.bundle import zstd
from deployfold.bundle.create import create
from deployfold.bundle.unpack import unpack
from deployfold.errors import BundleError
from deployfold.targets.machine import Machine

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("machine")]


def test_run_py_takes_the_engine_for_this_gpu(
    gpu_net: GpuNet, machine: Machine, tmp_path: Path
) -> None:
    if machine.tensorrt is None and machine.tensorrt_rtx is None:
        pytest.skip("neither tensorrt nor tensorrt_rtx is installed")
    pytest.importorskip("cyclonedx", reason="cyclonedx-python-lib is not installed")
    try:
        zstd.library()
    except BundleError as error:
        pytest.skip(error.message)
    torch.save(gpu_net.module, tmp_path / "net.pt")
    build = ["build", "net.pt", "--fp16", "--input", "2x3x32x32", "--no-measure", "-o", "out"]
    subprocess.run([sys.executable, "-m", "deployfold", *build], cwd=tmp_path, check=True)
    manifest = create(tmp_path / "out", tmp_path / "m.tar.zst")
    if not manifest.targets:
        pytest.skip("nothing installed here builds for this GPU")
    unpack(tmp_path / "m.tar.zst", tmp_path / "net")
    done = subprocess.run(
        [sys.executable, "net/run.py", "--bench", "1", "--json"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["artifact"].endswith(".engine"), done.stderr
    assert found["check"]["sqnr_db"] > 30
    assert found["bench"]["median_ms"] > 0
