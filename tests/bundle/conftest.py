"""A Python that has what a device has."""

from __future__ import annotations

import os
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

SITE = Path(sysconfig.get_path("purelib"))
NEEDED = ("numpy", "PIL", "onnxruntime", "flatbuffers", "google", "packaging")


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with those packages alone, as links to the tests' own."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()
    )  # fmt: skip
    libraries = [path.name for path in SITE.glob("*.libs")]
    for name in (*NEEDED, *libraries):
        if (SITE / name).exists():
            (site / name).symlink_to(SITE / name)
    for name in ("torch", "deployfold", "onnx", "pydantic", "tensorrt_rtx"):
        code = f"import {name}"
        absent = subprocess.run([python, "-c", code], cwd=folder, capture_output=True)
        assert absent.returncode == 1, f"{name} is not to be there"
    return python
