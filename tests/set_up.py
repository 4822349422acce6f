"""Set up a virtual environment for this repository, with two pips at a time.

    python3 tests/set_up.py .venv zoo

Unpacking wheels takes most of the time, and one pip does it on one core. So one pip chooses the
versions, and two pips then install at the same time: NVIDIA's libraries, which are half of all
bytes, and everything else. The logs are ``pip-*.log`` in the environment.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

_TAIL = 20
"""Lines of a log that are printed if pip fails."""
_STEP = re.compile(r"^ *(?:Downloading (\S+?)-\d\S* \((.* [MG]B)\)|(Installing) collected)", re.M)


class Pip:
    """A running ``pip install`` whose output goes to a log."""

    def __init__(self, environment: Path, name: str, *arguments: str) -> None:
        self.log = environment / f"pip-{name}.log"
        # Python writes the bytecode of a module at its first import: most are never imported.
        command = [str(environment / "bin" / "python"), "-m", "pip", "install", "--no-compile"]
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
            venv.create(self.environment, with_pip=True)
        self.say("a current pip")  # the pip of a new environment may take twice as long to resolve
        self.pip(itself=["--upgrade", "pip"])
        self.say("choosing versions")
        plan = self.environment / "pip-plan.json"
        self.pip(plan=["--dry-run", "--report", str(plan), f".[{extras}]"])
        found = [one["metadata"] for one in json.loads(plan.read_text("utf-8"))["install"]]
        pins = [f"{one['name']}=={one['version']}" for one in found if one["name"] != "deployfold"]
        nvidia = [pin for pin in pins if pin.startswith("nvidia-")]
        others = [pin for pin in pins if pin not in nvidia]
        self.say(f"installing {len(pins)} packages")
        first = ["--no-deps", *nvidia, "--editable", "."]
        self.pip(nvidia=first, **({"others": ["--no-deps", *others]} if others else {}))
        self.say("set up")


def main() -> None:
    """Set up the environment of the first argument with the extras of the second."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the pips end too
    try:
        SetUp(Path(sys.argv[1])).run(sys.argv[2])
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
