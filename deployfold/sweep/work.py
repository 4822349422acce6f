"""Runs one job in its own process."""

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
from deployfold.util import child
from deployfold.util.files import write_text
from deployfold.util.locks import try_lock

from .jobs import RECORD, Job, to_record

LOG = "build.log"
WORK = ".work-"
"""Prefix of the directories in which jobs are built."""

_POLL_SECONDS = 0.2
"""Seconds between two attempts to lock the machine; short compared to any build."""

_WHOLE = (ExitCode.OK, ExitCode.THRESHOLD, ExitCode.ACCURACY)
"""Exit codes of complete builds, which a second run would repeat."""


@dataclass(frozen=True)
class Outcome:
    """The end of a job.

    Attributes:
        seconds: the time of the build.
        peak_bytes: the greatest resident memory of the build; ``None`` if unknown.
        failure: the reason in one sentence; ``None`` if the directory of the job is complete.
        code: the exit code of ``deployfold build``.
    """

    job: Job
    seconds: float
    peak_bytes: int | None = None
    failure: str | None = None
    code: int = 0


class Processes:
    """The processes of the running builds, so that an interrupted sweep can end them."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = Lock()
        self._stopped = False

    def add(self, process: subprocess.Popen[bytes]) -> None:
        """Add a process, and end it at once if :meth:`stop` was called before."""
        with self._lock:
            self._running.add(process)
            if self._stopped:
                process.terminate()

    def discard(self, process: subprocess.Popen[bytes]) -> None:
        """Remove a process that has ended."""
        with self._lock:
            self._running.discard(process)

    @property
    def stopped(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stopped

    def stop(self) -> None:
        """Interrupt every build; each build cleans up its files."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()


def run_job(
    job: Job, processes: Processes | None = None, environment: Mapping[str, str] | None = None
) -> tuple[Outcome, ...]:
    """Build a job in a temporary directory, and rename the directory when it is complete.

    A failed job with several precisions or targets is built again in parts, so that the error of
    one part does not affect the others. A build that measures latency waits until no other build of
    a sweep runs on this machine, and other builds wait for its end.

    Args:
        processes: the list to which the process of the build is added.
        environment: variables in addition to those of this process.

    Returns:
        The outcome of the job, or those of its parts; none if the sweep was stopped.
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
    """Wait until a build may run on this machine, among all sweeps of the same user.

    Args:
        alone: whether all other builds must wait during the block.
        stopped: returns whether to stop waiting; called between two attempts.
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
        return Outcome(job, 0.0)
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
        try:
            work.rename(job.directory)
        except OSError:
            if not (job.directory / RECORD).exists():  # else another process has published it
                raise
        return Outcome(job, seconds, peak, code=code)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _run(
    job: Job, work: Path, processes: Processes, environment: Mapping[str, str] | None
) -> tuple[int, int | None]:
    command = child.command("deployfold.sweep.child", "main", *job.command)
    with (work / LOG).open("wb") as log:
        process = subprocess.Popen(
            [*command, "-o", str(work), "--no-color", "--json"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            cwd=job.code,
            env={**child.environment(), **(environment or {})},
            start_new_session=True,  # Ctrl-C reaches only the sweep, which then ends its builds
        )
        processes.add(process)
        try:
            return _wait(process)
        finally:
            processes.discard(process)
            with suppress(OSError):
                child.pipe(process.stdin).close()


def _wait(process: subprocess.Popen[bytes]) -> tuple[int, int | None]:
    """The exit code, and the greatest resident memory of the process and its children, in bytes."""
    if not hasattr(os, "wait4"):
        return process.wait(), None
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    factor = 1 if sys.platform == "darwin" else 1024
    return process.returncode, usage.ru_maxrss * factor


def _peak_of_stages(work: Path) -> int | None:
    """The greatest memory of a stage, with that of its compile worker."""
    report = load_report(work)
    return max((stage.peak_bytes or 0 for stage in report.stages), default=0) or None


def _sentence(log: Path, code: int) -> str:
    if code < 0:
        return f"the build was ended by signal {-code}" + (
            ", as Linux does when memory runs out" if code == -9 else ""
        )
    with suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        for line in lines:
            if line.startswith("Error: "):
                return line.removeprefix("Error: ")
        if lines:
            return lines[-1]
    return f"the build ended with exit code {code}"
