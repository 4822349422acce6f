"""``deployfold finish`` in an environment that has what a Jetson has: no torch, no onnx, no more.

The environment is a real one. For Python 3.10, JetPack 6's, its packages come from PyPI, which is
slow; for the Python at hand they are links to those that the tests run with.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from finish_kits import make_kit
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
NEEDED = ("typer", "rich", "pydantic", "numpy", "tensorrt-rtx")
"""What the README names for a device, and the library that builds here."""


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_kit(tmp_path_factory.mktemp("kit") / "net")


def closure(names: tuple[str, ...]) -> Iterator[metadata.Distribution]:
    """The distributions, and all distributions that they require."""
    waiting, seen = list(names), set()
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        found = metadata.distribution(name)
        yield found
        for text in found.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)


def bare_environment(folder: Path) -> Path:
    """A virtual environment with links to what is needed; its Python."""
    venv.create(folder, with_pip=False)
    scheme = "venv" if "venv" in sysconfig.get_scheme_names() else sysconfig.get_default_scheme()
    base = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", scheme, base))
    for distribution in closure(NEEDED):
        tops = {file.parts[0] for file in distribution.files or () if ".." not in file.parts}
        for top in tops:
            source = Path(str(distribution.locate_file(top)))
            if source.exists() and not (site / top).exists():
                (site / top).symlink_to(source)
    (site / "checkout.pth").write_text(str(ROOT))
    return folder / "bin" / "python"


def finish_with(python: Path, kit: Path, folder: Path) -> dict[str, Any]:
    """Finish a copy of the kit; return the printed report, after checks of the rest."""
    device = Path(shutil.copytree(kit, folder / "net"))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(python), *words],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    assert "No module named 'torch'" in run("-c", "import torch").stderr
    assert "No module named 'onnx'" in run("-c", "import onnx").stderr
    done = run("-m", "deployfold", "finish", "net", "--target", "sm_89", "--json")
    assert done.returncode == 0, done.stderr
    assert (device / "net.sm_89.engine").stat().st_size > 1000
    # An engine is run without torch as well: here as far as the missing GPU.
    ran = run("-m", "deployfold", "run", "net/net.sm_89.engine")
    assert (ran.returncode, "built for sm_89" in ran.stderr) == (8, True), ran.stderr
    # What does need it says so.
    bench = run("-m", "deployfold", "bench", "net")
    assert (bench.returncode, "needs torch" in bench.stderr) == (2, True), bench.stderr
    assert run("-m", "deployfold", "doctor", "--deep").returncode == 0
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def artifact(report: dict[str, Any]) -> str | None:
    (row,) = (row for row in report["rows"] if row["name"] == "tensorrt-fp32-l4")
    found: str | None = row["artifact"]
    return found


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_finish_builds_in_an_environment_without_torch(kit: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    python = bare_environment(tmp_path / "venv")
    assert artifact(finish_with(python, kit, tmp_path)) == "net.sm_89.engine"


@pytest.mark.slow
def test_finish_builds_with_the_python_of_jetpack_6(kit: Path, tmp_path: Path) -> None:
    found = shutil.which("python3.10")
    works = found and subprocess.run([found, "-V"], capture_output=True, check=False)
    if not found or not works or works.returncode or sys.version_info[:2] == (3, 10):
        pytest.skip("there is no other Python 3.10 here")
    subprocess.run([found, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "-q"]
    # The profiles of GPUs are TOML, which Python itself reads since 3.11.
    subprocess.run([*pip, *NEEDED, "tomli"], check=True)
    subprocess.run([*pip, "--no-deps", str(ROOT)], check=True)
    assert artifact(finish_with(python, kit, tmp_path)) == "net.sm_89.engine"
