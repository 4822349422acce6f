"""The GPU that is named is the one that CUDA uses: a driver in C, an ``nvidia-smi`` in shell."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).parents[1] / "runtimes" / "driver.c"
UUID = "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"
"""Of the driver's device 0, which calls itself Orin, sm_87."""
T4 = "GPU-ffffffff-ffff-ffff-ffff-ffffffffffff, Tesla T4, 7.5, 570.1, 15360 MiB"
ORIN = f"{UUID}, NVIDIA Orin, 8.7, 570.1, 8192 MiB"
CODE = """\
import dataclasses, json
from deployfold.targets.machine import detect
gpu = detect().gpu
print(json.dumps(gpu and dataclasses.asdict(gpu)))
"""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and a C compiler"
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("driver")
    words = ["cc", "-shared", "-fPIC", "-o", str(folder / "libcuda.so.1"), str(DRIVER)]
    subprocess.run(words, check=True)
    return folder


def found(
    tmp_path: Path, gpus: list[str], driver: Path | None, **more: str
) -> dict[str, object] | None:
    """The result of ``detect`` in a new process."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in gpus))
    program.chmod(0o755)
    hidden = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "LD_LIBRARY_PATH")
    clean = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env=clean
        | {"PATH": f"{tmp_path}:/usr/bin:/bin", "LD_LIBRARY_PATH": str(driver or tmp_path)}
        | more,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    gpu: dict[str, object] | None = json.loads(done.stdout)
    return gpu


def test_of_several_gpus_it_is_cudas_first_and_not_nvidia_smis(
    tmp_path: Path, driver: Path
) -> None:
    gpu = found(tmp_path, [T4, ORIN], driver)
    assert gpu is not None
    assert (gpu["name"], gpu["uuid"], gpu["driver_version"]) == ("NVIDIA Orin", UUID, "570.1")


def test_a_gpu_that_cuda_does_not_show_is_not_used(tmp_path: Path) -> None:
    """No driver answers here, as with ``CUDA_VISIBLE_DEVICES=''``."""
    assert found(tmp_path, [T4], None, CUDA_VISIBLE_DEVICES="") is None


def test_a_single_gpu_is_taken_without_starting_cuda(tmp_path: Path) -> None:
    gpu = found(tmp_path, [T4], None)
    assert gpu is not None
    assert gpu["name"] == "Tesla T4"


def test_a_slice_of_a_gpu_is_described_by_cuda(tmp_path: Path, driver: Path) -> None:
    """With MIG the slice has a UUID of its own, which ``nvidia-smi`` does not list here."""
    gpu = found(tmp_path, [T4], driver, CUDA_VISIBLE_DEVICES="MIG-1")
    assert gpu is not None
    assert (gpu["name"], gpu["compute_capability"], gpu["uuid"]) == ("Orin", [8, 7], UUID)
