"""Set up a virtual environment for this repository, with two pips at a time.

    python3 tests/set_up.py .venv zoo

Unpacking wheels takes most of the time, and one pip does it on one core. So one pip installs a
current pip and this package, the current pip chooses the versions of everything else, and two pips
then install half of the bytes each. The logs are ``pip-*.log`` in the environment.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import venv
from importlib import metadata
from pathlib import Path

_TAIL = 20
"""Lines of a log that are printed if pip fails."""
_OTHER_PYTHON = (22, 3)
"""The first pip that installs for another Python. One that is there saves installing it twice."""
_FOR_GPUS = "triton"
"""A sixth of all bytes. torch imports it only to compile for a GPU."""
_STEP = re.compile(r"^ *(?:Downloading (\S+?)-\d\S* \((.* [MG]B)\)|(Installing) collected)", re.M)


class Pip:
    """A running ``pip install`` whose output goes to a log."""

    def __init__(self, environment: Path, name: str, *arguments: str) -> None:
        self.log = environment / f"pip-{name}.log"
        python = str(environment / "bin" / "python")
        has_pip = (environment / "bin" / "pip").exists()
        pip = (
            [python, "-m", "pip"] if has_pip else [sys.executable, "-m", "pip", "--python", python]
        )
        # Python writes the bytecode of a module at its first import: most are never imported.
        command = [*pip, "install", "--no-compile"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([*command, *arguments], stdout=log, stderr=log)

    def steps(self) -> list[str]:
        """Large downloads and the installation, as far as pip is."""
        found = _STEP.findall(self.log.read_text("utf-8", "replace"))
        return [f"fetching {name}, {size}" if name else "unpacking" for name, size, _ in found]


class SetUp:
    """The steps of one set-up, printed with the seconds since its start."""

    def __init__(self, environment: Path) -> None:
        self.environment = environment
        self.start = time.monotonic()

    def say(self, text: str) -> None:
        """Print a step."""
        print(f"{time.monotonic() - self.start:5.0f} s  {text}", flush=True)

    def pip(self, **runs: list[str]) -> None:
        """Run one pip for each list of arguments, all at the same time.

        Raises:
            SystemExit: a pip failed; the end of its log was printed.
        """
        pips = [Pip(self.environment, name, *arguments) for name, arguments in runs.items()]
        shown: set[str] = set()
        try:
            while running := [pip for pip in pips if pip.process.poll() is None]:
                time.sleep(0.2)
                for step in [step for pip in running for step in pip.steps()]:
                    if step not in shown:
                        self.say(step)
                        shown.add(step)
                if any(pip.process.returncode for pip in pips):
                    break
        finally:
            for pip in pips:
                pip.process.terminate()
                pip.process.wait()
        for pip in pips:
            if pip.process.returncode:
                lines = pip.log.read_text("utf-8", "replace").splitlines()
                raise SystemExit("\n".join([*lines[-_TAIL:], f"pip failed; see {pip.log}."]))

    def run(self, extras: str) -> None:
        """Create the environment, choose versions, and install."""
        if not (self.environment / "bin" / "python").exists():
            venv.create(self.environment, with_pip=not _installs_elsewhere())
        self.say("a current pip, and deployfold")  # an old pip may take twice as long to resolve
        self.pip(first=["--no-deps", "--upgrade", "pip", "--editable", "."])
        self.say("choosing versions")
        plan = self.environment / "pip-plan.json"
        self.pip(plan=["--dry-run", "--report", str(plan), f"deployfold[{extras}]"])
        found = [one["metadata"] for one in json.loads(plan.read_text("utf-8"))["install"]]
        pins = [f"{one['name']}=={one['version']}" for one in found]
        if "dev" not in extras and not _has_gpu():
            pins = [pin for pin in pins if not pin.startswith(f"{_FOR_GPUS}==")]
        # NVIDIA's libraries without cuDNN weigh as much as everything else.
        first = [pin for pin in pins if re.match("nvidia-(?!cudnn)", pin)]
        second = [pin for pin in pins if pin not in first]
        self.say(f"installing {len(pins)} packages")
        parts = {"one": first, "two": second}
        self.pip(**{name: ["--no-deps", *part] for name, part in parts.items() if part})
        self.say("set up")


def _has_gpu() -> bool:
    """Whether an NVIDIA driver is here."""
    return shutil.which("nvidia-smi") is not None or Path("/dev/nvidiactl").exists()


def _installs_elsewhere() -> bool:
    """Whether the pip of this Python, if it has one, can install into another environment."""
    try:
        version = metadata.version("pip").split(".")
        return (int(version[0]), int(version[1])) >= _OTHER_PYTHON
    except (metadata.PackageNotFoundError, ValueError, IndexError):
        return False


def main() -> None:
    """Set up the environment of the first argument with the extras of the second."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the pips end too
    try:
        SetUp(Path(sys.argv[1])).run(sys.argv[2])
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
