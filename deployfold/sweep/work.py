"""One job, built in a process of its own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from deployfold.errors import ExitCode
from deployfold.reporting.report import load_report
from deployfold.util.files import write_text
from deployfold.util.locks import try_lock

from .jobs import RECORD, Job, to_record

LOG = "build.log"
WORK = ".work-"
"""Begins the name of a directory that a job is being built in."""

_POLL_SECONDS = 0.2
"""Between two looks at the machine's lock; short beside any build."""

_WHOLE = (ExitCode.OK, ExitCode.THRESHOLD, ExitCode.ACCURACY)
"""Exit codes after which all there is to be made was made, and a second run would end the same."""


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        failure: one sentence; ``None`` if its directory is there.
        code: the exit code of ``deployfold build``.
        cached: another run had made it meanwhile.
    """

    job: Job
    seconds: float
    peak_bytes: int | None = None
    failure: str | None = None
    code: int = 0
    cached: bool = False


class Processes:
    """The builds that run now, so that an interrupted sweep can end them."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = Lock()
        self._stopped = False

    def add(self, process: subprocess.Popen[bytes]) -> None:
        """Watch a process; it ends at once if everything was to stop."""
        with self._lock:
            self._running.add(process)
            if self._stopped:
                process.terminate()

    def discard(self, process: subprocess.Popen[bytes]) -> None:
        """The process has ended."""
        with self._lock:
            self._running.discard(process)

    @property
    def stopped(self) -> bool:
        """Whether everything was to stop."""
        return self._stopped

    def stop(self) -> None:
        """Interrupt every build; each cleans up after itself."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()


def run_job(
    job: Job, processes: Processes | None = None, environment: Mapping[str, str] | None = None
) -> tuple[Outcome, ...]:
    """Build a job into a directory of its own, and give that its name when it is whole.

    An error of one precision or target must not take the others along, so a job of several that
    ends with one is done again in parts. A build that measures latency waits until no other build
    of a sweep runs on this machine, and keeps others waiting.

    Args:
        environment: variables beside those of this process.
    """
    processes = processes or Processes()
    with on_this_machine(alone=job.measures, stopped=lambda: processes.stopped):
        return () if processes.stopped else _run_parts(job, processes, environment)


def _run_parts(
    job: Job, processes: Processes, environment: Mapping[str, str] | None
) -> tuple[Outcome, ...]:
    outcome = _build(job, processes, environment)
    parts = () if processes.stopped else job.after(outcome.code)
    if not parts:
        return (outcome,)
    return tuple(one for part in parts for one in _run_parts(part, processes, environment))


@contextmanager
def on_this_machine(*, alone: bool, stopped: Callable[[], bool]) -> Iterator[None]:
    """Wait for the right to build on this machine; sweeps of the same user share it.

    Args:
        alone: let no other build run during the block.
        stopped: whether to wait no longer.
    """
    name = f"deployfold-sweep-{os.getuid() if hasattr(os, 'getuid') else 'lock'}"
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    lock = os.open(Path(tempfile.gettempdir()) / name, flags, 0o600)
    try:
        while not stopped():
            try:
                try_lock(lock, shared=not alone)
                break
            except BlockingIOError:
                time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(lock)


def _build(job: Job, processes: Processes, environment: Mapping[str, str] | None) -> Outcome:
    start = time.monotonic()
    if (job.directory / RECORD).exists():
        return Outcome(job, 0.0, cached=True)
    job.directory.parent.mkdir(parents=True, exist_ok=True)
    work = job.directory.parent / f"{WORK}{secrets.token_hex(4)}"
    work.mkdir()
    try:
        code, peak = _run(job, work, processes, environment)
        seconds = time.monotonic() - start
        if code not in _WHOLE or job.after(code):
            return Outcome(job, seconds, peak, _sentence(work / LOG, code), code)
        peak = _peak_of_stages(work) or peak
        record = {
            **to_record(job),
            "exit_code": code,
            "seconds": round(seconds, 3),
            "peak_bytes": peak,
        }
        write_text(work / RECORD, json.dumps(record, indent=2) + "\n")
        cached = _publish(work, job.directory)
        return Outcome(job, seconds, peak, code=code, cached=cached)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _publish(work: Path, directory: Path) -> bool:
    """Rename ``work``; returns whether another process had been quicker."""
    try:
        work.rename(directory)
    except OSError:
        if not (directory / RECORD).exists():
            raise
        return True
    return False


def _run(
    job: Job, work: Path, processes: Processes, environment: Mapping[str, str] | None
) -> tuple[int, int | None]:
    command = [sys.executable, "-m", "deployfold.sweep.child", *job.command]
    with (work / LOG).open("wb") as log:
        process = subprocess.Popen(
            [*command, "-o", str(work), "--no-color", "--json"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            cwd=job.code,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # Ctrl-C is for the sweep, which then ends its builds
        )
        processes.add(process)
        try:
            return _wait(process)
        finally:
            processes.discard(process)
            with suppress(OSError):
                assert process.stdin is not None
                process.stdin.close()


def _wait(process: subprocess.Popen[bytes]) -> tuple[int, int | None]:
    """The exit code, and the greatest resident memory of the process and its children in bytes."""
    if not hasattr(os, "wait4"):
        return process.wait(), None
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return process.returncode, usage.ru_maxrss * unit


def _peak_of_stages(work: Path) -> int | None:
    """The greatest memory of a stage, with that of the process that compiled in it."""
    report = load_report(work)
    return max((stage.peak_bytes or 0 for stage in report.stages), default=0) or None


def _sentence(log: Path, code: int) -> str:
    if code < 0:
        return f"it was ended by signal {-code}" + (
            "; this is what Linux does when memory runs out" if code == -9 else ""
        )
    with suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        for line in lines:
            if line.startswith("Error: "):
                return line.removeprefix("Error: ")
        if lines:
            return lines[-1]
    return f"it ended with exit code {code}"
