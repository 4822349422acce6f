"""The built wheel, installed in a clean environment, finds what it ships."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_wheel_ships_profiles_and_types(tmp_path: Path) -> None:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "-o",
            str(tmp_path),
            str(ROOT),
        ],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {name for name in names if name.startswith("deployfold/profiles/gpus/")}
    assert len(shipped) == len(list((ROOT / "profiles" / "gpus").glob("*.toml")))
    assert "deployfold/py.typed" in names

    venv.create(tmp_path / "clean", with_pip=True)
    python = tmp_path / "clean" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True)
    # The dependencies come from the environment of the tests: gigabytes that need no second copy.
    packages = sysconfig.get_path("purelib", vars={"base": str(tmp_path / "clean")})
    (Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    done = subprocess.run(
        [tmp_path / "clean" / "bin" / "deployfold", "targets", "--json"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert len(json.loads(done.stdout)) == len(shipped)
    where = subprocess.run(
        [python, "-c", "import deployfold; print(deployfold.__file__)"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert str(tmp_path / "clean") in where.stdout
