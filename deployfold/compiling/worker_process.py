"""Starts the worker as a child process, follows it, and ends it with all of its own children.

The worker has its own process group and a time limit. Each way in which it can fail is one error.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import IO, Any

from deployfold.errors import CompileError
from deployfold.util import child
from deployfold.util.files import unwritable

Report = Callable[[str, float | None], None]
"""A callback that receives the name of a phase, and the fraction of the build (0 to 1) or ``None``
if the fraction is unknown."""


def run_worker(
    job: Mapping[str, Any],
    *,
    log: Path,
    timeout: float,
    report: Report,
    what: str = "The engine build",
) -> dict[str, Any]:
    """Run the worker on ``job`` and return its ``done`` message.

    Args:
        job: the JSON object that :mod:`~.worker` describes.
        log: the file for the worker's standard error.
        timeout: seconds until the worker is killed.
        report: called in this thread with each phase of the worker.
        what: the subject of the message about a time-out.

    Raises:
        CompileError: the worker reported an error, was killed by a signal, ended without a
            ``done``, or ran past ``timeout``. The hint names the log.
        UsageError: the log cannot be written.
        OSError: the worker could not write its result.
    """
    with contextlib.ExitStack() as stack:
        try:
            # A new directory has no file of the user, and a core dump is deleted with it.
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="deployfold-"))
            request = Path(directory) / "request.json"
            request.write_text(json.dumps(job), encoding="utf-8")
        except OSError as error:
            raise unwritable(Path(tempfile.gettempdir()), error) from error
        try:
            errors = stack.enter_context(log.open("wb"))
        except OSError as error:
            raise unwritable(log, error) from error
        process = None
        try:
            with signals_held():
                process = _start(request, directory, errors)
            return _follow(process, timeout, report, what)
        except CompileError as error:
            hint = f"{error.hint + ' ' if error.hint else ''}The log: {log}."
            raise CompileError(error.message, hint=hint) from error
        finally:
            if process is not None:
                _end(process)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Delay the signals that stop a build until the end of the block.

    Python handles a signal between any two instructions, even inside ``Popen`` after the child has
    started. The exception would then leave the child running. This function replaces the handlers
    and does not block the signals, because another thread could receive a blocked signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread handles signals
        return
    held: list[tuple[int, FrameType | None]] = []
    previous: dict[int, Callable[[int, FrameType | None], Any]] = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        handler = None if number is None else signal.getsignal(number)
        if number is not None and callable(handler):
            previous[number] = handler
            signal.signal(number, lambda *arguments: held.append(arguments))
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    for number, frame in held:
        previous[number](number, frame)


def _start(request: Path, directory: str, errors: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        child.command("deployfold.compiling.worker", "main", str(request)),
        stdin=subprocess.PIPE,  # closes when this process dies, and the worker then ends
        stdout=subprocess.PIPE,
        stderr=errors,
        cwd=directory,
        env=child.environment(),
        start_new_session=True,  # a process group that Ctrl-C does not reach and that _end kills
    )


def _follow(
    process: subprocess.Popen[bytes], timeout: float, report: Report, what: str
) -> dict[str, Any]:
    lines: queue.Queue[bytes | None] = queue.Queue()
    threading.Thread(target=_read, args=(child.pipe(process.stdout), lines), daemon=True).start()
    deadline = time.monotonic() + timeout
    phase = "starting"
    while True:
        try:
            line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise _too_long(what, timeout, phase) from None
        if line is None or not line.endswith(b"\n"):  # the end, or killed in the middle of a line
            break
        message: dict[str, Any] = json.loads(line)
        if message["event"] == "done":
            return message
        if message["event"] == "unwritable":
            raise OSError(message["errno"], message["reason"])
        if message["event"] == "error":
            raise CompileError(message["message"], hint=message["hint"])
        phase = str(message["phase"])
        report(phase, message["fraction"])
    try:
        code = process.wait(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise _too_long(what, timeout, phase) from None
    raise _crashed(code, phase)


def _read(stream: IO[bytes], lines: queue.Queue[bytes | None]) -> None:
    with stream:  # no other thread may close a stream that this one reads
        for line in stream:
            lines.put(line)
    lines.put(None)


def _too_long(what: str, timeout: float, phase: str) -> CompileError:
    return CompileError(
        f"{what} took longer than {timeout:g} s and was stopped (phase: {phase}).",
        hint="Allow more with --timeout.",
    )


def _crashed(code: int, phase: str) -> CompileError:
    if code >= 0:
        return CompileError(f"The compile worker ended with exit code {code} (phase: {phase}).")
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = "The kernel sends it when memory runs out." if name == "SIGKILL" else None
    return CompileError(f"The compile worker was killed by {name} (phase: {phase}).", hint=hint)


def _end(process: subprocess.Popen[bytes]) -> None:
    # Kill the group even after `done`: none of its processes may outlive the build.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    process.wait()
