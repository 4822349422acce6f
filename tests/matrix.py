"""A quick part of the tests on several versions of Python and torch: ``make test-matrix``.

Each combination gets a virtual environment of its own below ``build/matrix``, one at a time, which
is removed after its run: with CUDA's libraries it takes 5 to 8 GB. What cannot be had here is said
in the table. The exit code is 1 if a test failed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
NEWEST = "newest"
COMBINATIONS = ("3.11:2.6", *(f"3.{minor}:{NEWEST}" for minor in (10, 11, 12, 13)))
PARTS = (
    "tests/util/test_files.py", "tests/config/test_inputs.py", "tests/folding/test_fold_rules.py",
    "tests/loading/test_load_models.py", "tests/exporting/test_export_torchscript.py",
    "tests/exporting/test_export_program.py", "tests/exporting/test_export_onnx.py",
    "tests/bundle/test_bundle_create.py", "tests/cli/test_cli_build.py",
)  # fmt: skip
GB = 10**9
ROOM = 10 * GB
"""Free disk that a combination may take."""


@dataclass(frozen=True)
class Ran:
    """A line of the table; ``failed`` if a test did, and not where there was nothing to run."""

    combination: str
    versions: str
    result: str
    failed: bool = False


def main() -> int:
    """Run what the command line names; 1 if a test failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("combinations", nargs="*", default=COMBINATIONS, metavar="PYTHON:TORCH")
    parser.add_argument("--keep-free", type=float, default=25, metavar="GB", help="of the disk")
    options = parser.parse_args()
    lines = []
    for combination in options.combinations:
        print(f"== {combination}", flush=True)
        start = time.monotonic()
        line = run(combination, options.keep_free * GB)
        lines.append((line, (time.monotonic() - start) / 60))
    print(f"\n{'Python:torch':<14}{'versions':<52}{'min':>5}  result")
    for line, minutes in lines:
        print(f"{line.combination:<14}{line.versions:<52}{minutes:>5.1f}  {line.result}")
    return int(any(line.failed for line, _ in lines))


def run(combination: str, keep_free: float) -> Ran:
    """Install one combination, run the tests in it, and remove it."""
    version, _, torch = combination.partition(":")
    found = shutil.which(f"python{version}")
    # pyenv has a command for every version that it knows, which fails where another is chosen.
    if found is None or subprocess.run([found, "--version"], capture_output=True).returncode:
        return Ran(combination, "", f"not run: there is no python{version} on the PATH")
    home = ROOT / "build" / "matrix" / combination.replace(":", "-")
    home.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(home.parent).free < keep_free + ROOM:
        return Ran(combination, "", "not run: too little disk is free")
    try:
        subprocess.run([found, "-m", "venv", "--clear", home], check=True)
        python = home / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        # All that these tests need of [dev]; torchvision follows torch.
        wanted = ["pytest", "hypothesis", "cyclonedx-python-lib[json-validation]"]
        wanted.append("torch" if torch == NEWEST else f"torch=={torch}.*")
        pip = [python, "-m", "pip", "install", "--quiet", "--no-cache-dir", "--editable"]
        done = subprocess.run(
            [*pip, f"{ROOT}[zoo,report,bundle]", *wanted],
            stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            return Ran(combination, "", f"not run: {reason}")
        tests = [python, "-m", "pytest", "-m", "not slow", "-p", "no:cacheprovider", *PARTS]
        done = subprocess.run(tests, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        print(done.stdout, flush=True)
        last = (done.stdout.strip().splitlines() or ["nothing was printed"])[-1].strip("= ")
        return Ran(combination, versions(python), last, failed=done.returncode != 0)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def versions(python: Path) -> str:
    """``Python 3.11.7, torch 2.6.0, onnx 1.19.0, numpy 2.2.6``."""
    code = (
        "import platform; from importlib.metadata import version as v\n"
        "names = ('torch', 'onnx', 'onnxruntime', 'numpy')\n"
        "print(platform.python_version(), *(f'{n} {v(n)}' for n in names), sep=', ')"
    )
    return subprocess.run(
        [python, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
