"""Every command that writes files, with one run for the tests to disturb."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cli_runs import DEPLOYFOLD, SHAPE, environment

from deployfold.compiling import worker

CASES = int(os.environ.get("DEPLOYFOLD_FAULT_CASES", "3"))
FEW = max(1, CASES // 5)
"""Cases of the faults that do not depend on a moment as much as SIGKILL does."""

FLEET = f"""
precisions = ["fp32", "fp16"]
targets = ["l4"]
jobs = 1
[build]
no-measure = true
input = ["{SHAPE}"]
[[model]]
source = "net.pt"
"""
MARK = "DEPLOYFOLD_FAULT_CASE"


@dataclass(frozen=True)
class Command:
    """A command that writes into the directory ``{out}``, from the files in ``{given}``.

    Attributes:
        copies: what of ``{given}`` is ``{out}`` before the command runs: it writes in place.
        onto: whether it may be run again over what it made; else it refuses or has nothing to do.
        fixed: its files depend on what it reads alone, and are the same bytes every time.
    """

    name: str
    words: str
    copies: str | None = None
    onto: bool = True
    fixed: bool = False

    def prepare(self, given: Path, out: Path) -> None:
        """Bring ``out`` into its state before the first run."""
        out.mkdir(parents=True, exist_ok=True)
        if self.copies is not None:
            shutil.copytree(given / self.copies, out, dirs_exist_ok=True)

    def line(self, given: Path, out: Path) -> list[str]:
        """The words of the command line, ``deployfold`` first."""
        return [DEPLOYFOLD, *(w.format(given=given, out=out) for w in self.words.split())]


BUILD = f"build {{given}}/net.pt --input {SHAPE} --fp16 --target l4 --target h100"
COMMANDS = (
    Command("fold", f"fold {{given}}/net.pt --input {SHAPE} -o {{out}}/net.folded.pt"),
    Command("export", f"export {{given}}/net.pt --input {SHAPE} -o {{out}}"),
    Command("build", f"{BUILD} --threads 1 --max-seconds 0.2 -o {{out}}"),
    Command("finish", "finish {out} --target l4", copies="kit"),
    Command("sweep", "sweep {given}/fleet.toml -o {out}", onto=False),
    Command("bundle", "bundle {given}/kit -o {out}/net.tar.zst", fixed=True),
    Command("unpack", "bundle unpack {given}/net.tar.zst {out}/net", onto=False, fixed=True),
    Command("triton", "bundle {given}/kit --format triton -o {out}/models", onto=False, fixed=True),
    Command("oci", "bundle {given}/kit --format oci -o {out}/net.oci", onto=False, fixed=True),
    Command("report", "report {given}/kit -o {out}/r.html --svg {out}/r.svg", fixed=True),
    Command("compare", "compare {given}/kit {given}/kit --markdown {out}/c.md --junit {out}/c.xml"),
    Command("run", "run {given}/kit/net.onnx -o {out}/y.npz"),
)
BY_NAME = {command.name: command for command in COMMANDS}


@dataclass(frozen=True)
class Ended:
    """The end of a run: its exit code, its stderr, and its seconds."""

    code: int
    err: str
    seconds: float

    def before_us(self, number: int) -> bool:
        """Whether signal ``number`` arrived while Python started, before deployfold's code."""
        return self.code in (1, -number) and not re.search("Error: |deployfold/cli/", self.err)

    def error(self) -> str:
        """The one sentence of its error, which is never a traceback; empty without an error."""
        assert "Traceback" not in self.err, self.err
        assert "Internal error" not in self.err, self.err
        errors = [line for line in self.err.splitlines() if line.startswith("Error: ")]
        assert len(errors) == bool(self.code), (self.code, self.err)
        return errors[0] if errors else ""


@dataclass
class Running:
    """A command at work in a session of its own, as a terminal would start it."""

    process: subprocess.Popen[str]
    mark: str
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, command: Command, given: Path, out: Path, **changes: str | None) -> Running:
        mark = uuid.uuid4().hex
        process = subprocess.Popen(
            command.line(given, out),
            cwd=given,
            env=environment(**{MARK: mark, **changes}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            # A shell that runs the tests in the background has Ctrl-C ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        return cls(process, mark)

    def signal(self, number: int) -> bool:
        """Send a signal, Ctrl-C to the whole group as a terminal does; whether it was running."""
        if self.process.poll() is not None:
            return False
        try:
            if number == signal.SIGINT:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)
        except ProcessLookupError:
            return False
        return True

    def end(self, timeout: float = 900) -> Ended:
        """Wait for it; a run that hangs is killed and is a failure."""
        started = time.monotonic()
        try:
            _, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            _, err = self.process.communicate()
            raise AssertionError(f"it hung for {timeout} s: {err}") from None
        return Ended(self.process.returncode, err, time.monotonic() - started)

    def left(self, seconds: float = 60) -> list[str]:
        """The command lines of the run's processes that are still alive after ``seconds``."""
        deadline = time.monotonic() + seconds
        while (found := list(_marked(self.mark).values())) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def workers(self) -> list[int]:
        """The compile workers among its processes."""
        return [pid for pid, line in _marked(self.mark).items() if worker.__name__ in line]


def _marked(mark: str) -> Mapping[int, str]:
    return dict(_processes(f"{MARK}={mark}".encode()))


def _processes(entry: bytes) -> Iterator[tuple[int, str]]:
    for place in Path("/proc").iterdir():
        if place.name.isdecimal() and int(place.name) != os.getpid():
            try:
                if entry in (place / "environ").read_bytes().split(b"\0"):
                    line = (place / "cmdline").read_bytes().replace(b"\0", b" ")
                    yield int(place.name), line.decode("utf-8", "replace")
            except OSError:  # it ended meanwhile
                continue


def run(command: Command, given: Path, out: Path, **changes: str | None) -> Ended:
    """Run a command undisturbed."""
    return Running.start(command, given, out, **changes).end()
