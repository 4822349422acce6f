"""The C++ programs of a bundle compile, and agree with the reference as ``run.py`` does."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import deployfold
from deployfold.bundle.create import create
from deployfold.bundle.unpack import unpack
from deployfold.finish.reference import read_reference
from deployfold.runtimes.aot_inductor import missing_compiler

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("cmake") is None or missing_compiler() is not None,
        reason="needs cmake and a C++ compiler",
    ),
]


class _TwoInputs(nn.Module):
    """Takes floats and int64; one of its two outputs is a number for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU())

    def forward(self, x: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.layers(x)
        return y, y.gather(1, index.remainder(4)).sum(1)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked bundle; its program is compiled with every runtime that is here."""
    folder = tmp_path_factory.mktemp("cpp")
    torch.manual_seed(0)
    torch.save(_TwoInputs().eval(), folder / "net.pt")
    deployfold.build(
        folder / "net.pt", inputs=["x=2x6", "index=2x3:int64"], output=str(folder / "out"),
        aot_inductor=True, engine=False, measure=False, trust=True,
    )  # fmt: skip
    create(folder / "out", folder / "net.tar.zst", cpp=True)
    unpack(folder / "net.tar.zst", folder / "net")
    source, build = folder / "net" / "cpp", folder / "net" / "cpp" / "build"
    roots = [f"-DTORCH_ROOT={torch.__path__[0]}"]
    if "ONNXRUNTIME_ROOT" in os.environ:
        roots.append(f"-DONNXRUNTIME_ROOT={os.environ['ONNXRUNTIME_ROOT']}")
    subprocess.run(["cmake", "-S", source, "-B", build, *roots], check=True)
    subprocess.run(["cmake", "--build", build], check=True)
    return folder / "net"


def ran(folder: Path, file: str, reference: str = "reference.npz") -> subprocess.CompletedProcess:
    return subprocess.run(
        [folder / "cpp" / "build" / "run", file, reference],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_an_aot_inductor_package_gives_the_reference(program: Path) -> None:
    done = ran(program, "net.aoti.pt2")
    assert done.returncode == 0, done.stderr
    assert "net.aoti.pt2: as it was built" in done.stdout


def test_other_outputs_are_told_apart(program: Path) -> None:
    inputs, outputs = read_reference(program / "reference.npz")
    arrays = {f"input_{one}": value for one, value in enumerate(inputs)}
    arrays |= {f"output_{one}": value for one, value in enumerate(outputs)}
    np.savez(program / "other.npz", **arrays | {"output_1": outputs[1] + 1})
    done = ran(program, "net.aoti.pt2", "other.npz")
    assert (done.returncode, "NOT as it was built" in done.stdout) == (8, True)
    np.savez_compressed(program / "packed.npz", **arrays)
    assert "is compressed" in ran(program, "net.aoti.pt2", "packed.npz").stderr
    whole = (program / "reference.npz").read_bytes()
    (program / "cut.npz").write_bytes(whole[: len(whole) // 2])
    assert ran(program, "net.aoti.pt2", "cut.npz").stderr.startswith("Error: ")


@pytest.mark.skipif(
    "ONNXRUNTIME_ROOT" not in os.environ,
    reason="ONNX Runtime's wheel has no headers: set ONNXRUNTIME_ROOT to a release archive",
)
def test_an_onnx_gives_the_reference(program: Path) -> None:
    done = ran(program, "net.onnx")
    assert done.returncode == 0, done.stderr
    assert "net.onnx: as it was built" in done.stdout


def test_a_runtime_that_was_not_compiled_is_named(program: Path) -> None:
    (program / "net.engine").write_bytes(b"an engine")
    done = ran(program, "net.engine")
    assert done.returncode == 8
    assert "compiled without the runtime of net.engine" in done.stderr
