"""Fixtures: a Python with the packages of a device, and Triton's definition of its config."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import venv
from pathlib import Path
from typing import Any

import pytest
from triton_repositories import model_config

NEEDED = ("numpy", "PIL", "onnxruntime", "flatbuffers", "google", "packaging")


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has only these packages, linked from the tests'
    environment.
    """
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()
    )  # fmt: skip
    for name in NEEDED:
        found = importlib.util.find_spec(name)
        if found is None or not found.submodule_search_locations:
            continue
        package = Path(next(iter(found.submodule_search_locations)))
        for path in (package, *package.parent.glob("*.libs")):
            if not (site / path.name).exists():
                (site / path.name).symlink_to(path)
    for name in ("torch", "deployfold", "onnx", "pydantic", "tensorrt_rtx"):
        code = f"import {name}"
        absent = subprocess.run([python, "-c", code], cwd=folder, capture_output=True)
        assert absent.returncode == 1, f"{name} is not to be there"
    return python


@pytest.fixture(scope="session")
def proto() -> Any:
    """``model_config_pb2`` of the client."""
    return model_config()
