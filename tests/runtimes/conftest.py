"""The CUDA driver in C that stands in for a GPU's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

COMPILER = shutil.which("cc") or shutil.which("gcc")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A driver whose device is the host; see ``driver.c``."""
    if COMPILER is None:
        pytest.skip("needs a C compiler")
    path = tmp_path_factory.mktemp("driver") / "libdriver.so"
    source = Path(__file__).with_name("driver.c")
    words = [COMPILER, "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(path), str(source)]
    subprocess.run(words, check=True)
    return str(path)
