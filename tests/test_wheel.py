"""The built wheel, installed in a clean environment, finds what it ships."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROFILES = len(list((ROOT / "profiles" / "gpus").glob("*.toml")))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = ["-m", "build", "--wheel", "--no-isolation", "-o", str(folder), str(ROOT)]
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    (wheel,) = folder.glob("deployfold-*-py3-none-any.whl")
    return wheel


def test_the_wheel_ships_profiles_types_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert sum(name.startswith("deployfold/profiles/gpus/") for name in names) == PROFILES >= 60
    assert "deployfold/py.typed" in names
    assert "deployfold/troubleshooting.md" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"deployfold"}
    assert not [name for name in names if "__pycache__" in name]


def test_the_installed_wheel_finds_its_profiles(wheel: Path, tmp_path: Path) -> None:
    clean = tmp_path / "clean"
    venv.create(clean, with_pip=False)
    packages = Path(
        sysconfig.get_path("purelib", "venv", {"base": str(clean), "platbase": str(clean)})
        if "venv" in sysconfig.get_scheme_names()  # Python 3.11
        else sysconfig.get_path("purelib", vars={"base": str(clean)})
    )
    scripts = clean / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps"]
    subprocess.run([*pip, str(wheel)], check=True)
    # The dependencies come from the environment of the tests: gigabytes that need no second copy.
    # A virtual environment made in another one does not see it by --system-site-packages. The path
    # is added at the end, and .pth files in it are not read, so an editable deployfold there stays
    # out.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    def run(*command: str | Path) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
        ).stdout

    where = run(python, "-c", "import deployfold; print(deployfold.__file__)").strip()
    assert Path(where).is_relative_to(clean)
    assert (Path(where).parent / "py.typed").is_file()
    assert len(json.loads(run(scripts / "deployfold", "targets", "--json"))) == PROFILES
    assert "deployfold" in run(scripts / "deployfold", "--version")
