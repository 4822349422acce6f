"""The session around a command's work, which turns errors into a sentence and an exit code."""

from __future__ import annotations

import errno
import json as json_module
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from deployfold.errors import DeployfoldError, ExitCode, Interrupted, UsageError, interrupted
from deployfold.events import Emit, Event, StageStarted
from deployfold.reporting.text import clean

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


_PACKAGES = {
    name: "pillow" if name == "PIL" else name
    for name in ("torch", "onnx", "onnxruntime", "onnxscript", "safetensors", "PIL", "tomli")
}
"""The packages that a device may lack if deployfold was installed without its dependencies, with
the names to install."""

_AGAIN = 0.05
"""Seconds until an interrupt that Python dropped is raised again."""


@dataclass(frozen=True)
class Session:
    """The two streams of one command.

    Attributes:
        out: the result only; with ``--json``, the report only.
        err: progress, notes and errors.
        emit: shows the events of a running pipeline on ``err``.
    """

    out: Console
    err: Console
    emit: Emit
    json: bool
    verbose: bool
    quiet: bool = False

    def show_import(self) -> None:
        """Show that the command works while it imports torch, which takes seconds."""
        self.emit(StageStarted("load", "importing PyTorch"))

    def write_json(self, value: object) -> None:
        """Write a value as JSON, the whole result of the command."""
        self.out.file.write(json_module.dumps(value, indent=2) + "\n")

    def line(self, text: str) -> None:
        """Print a text on one line without markup, so that users can copy a path or a command."""
        self.out.print(_plain(text), soft_wrap=True)

    def wrote(self, path: Path) -> None:
        """Report a written file beside the result."""
        self.err.print(_plain(f"Wrote {path}"), soft_wrap=True)


@contextmanager
def session(
    *,
    json: bool = False,
    verbose: bool = False,
    quiet: bool = False,
    debug: bool = False,
    no_color: bool = False,
) -> Iterator[Session]:
    """Run a command's body; print its errors and turn them into the exit code.

    Output into a closed pipe is dropped and does not affect the exit code; see
    :mod:`deployfold.cli.streams`.
    """
    from rich.console import Console

    from .progress import Progress
    from .streams import Lossy, real_stdout

    disable = True if no_color else None
    # Keep the current stream, because an interrupt may leave sys.stderr silenced.
    lossy: Any = Lossy(sys.stderr)
    err = Console(file=lossy, stderr=True, no_color=disable, highlight=False)
    with real_stdout(json=json) as stream:
        out = Console(file=stream, no_color=disable, highlight=False)
        progress = Progress(err, verbose=verbose, quiet=quiet)
        code = ExitCode.OK
        try:
            with progress, _interruptible(progress.show) as emit:
                _check_working_directory()
                if quiet and verbose:
                    raise UsageError("--quiet and --verbose exclude each other.")
                yield Session(out, err, emit, json, verbose, quiet)
            _flush(stream)
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            failure = _failure(error)
            code = failure.exit_code
            print_error(err, failure.message, failure.hint)
            if json and not stream.used:
                write_error(stream, failure.message, failure.hint, code)
            if debug and code is not ExitCode.INTERRUPTED:
                err.print_exception()
    if code:
        raise SystemExit(int(code))


def _check_working_directory() -> None:
    """Refuse a missing working directory: torch's libraries would end the process."""
    try:
        Path.cwd()
    except OSError as error:
        raise UsageError(
            f"The working directory cannot be used: {error.strerror}.",
            hint="Someone may have moved or removed it; change to another directory with cd.",
        ) from error


def _flush(stream: IO[str]) -> None:
    """Flush the output while an error can still be reported."""
    try:
        stream.flush()
    except OSError as error:
        raise UsageError(f"Cannot write the output: {error.strerror or error}.") from error


def print_error(console: Console, message: str, hint: str | None) -> None:
    """Print the sentence of an error, and below it the hint."""
    from rich.text import Text

    console.print(Text.assemble(("Error: ", "bold red"), _plain(message)), soft_wrap=True)
    if hint:
        console.print(_plain(hint, "dim"), soft_wrap=True)


def _plain(text: str, style: str = "") -> Text:
    """A text without control characters, which rich does not read as markup."""
    from rich.text import Text

    return Text(clean(text), style)


def write_error(stream: IO[str], message: str, hint: str | None, code: ExitCode) -> None:
    """Write an error as the JSON result of a command that has no other; losing it is no error."""
    found = {"error": clean(message), "hint": hint and clean(hint), "exit_code": int(code)}
    with suppress(OSError, ValueError):
        stream.write(json_module.dumps(found, indent=2) + "\n")
        stream.flush()


class _Failure(DeployfoldError):
    """An exception that ended a command, in words for the user."""

    def __init__(self, code: ExitCode, message: str, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = code


def _failure(error: BaseException) -> DeployfoldError:
    """The message, the hint and the exit code of an exception."""
    if interrupted(error):
        hint = error.hint if isinstance(error, Interrupted) else "Run the same command again."
        return _Failure(ExitCode.INTERRUPTED, "Interrupted.", hint)
    if isinstance(error, DeployfoldError):
        return error
    if isinstance(error, SystemExit):  # deployfold's code does not exit within a command
        return _Failure(
            ExitCode.FOLD,
            f"The model's own code ended the program with {error.code!r}.",
            "Remove the sys.exit() from its forward.",
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _Failure(ExitCode.USAGE, f"Cannot write: {error.strerror}.", "Free some space.")
    if isinstance(error, OSError) and error.filename is not None:
        # Any access to a path can fail: no search permission, or too long a name.
        message = f"Cannot access {os.fsdecode(error.filename)}: {error.strerror}."
        return _Failure(ExitCode.USAGE, message, "Check the path and its permissions.")
    if isinstance(error, ModuleNotFoundError) and error.name in _PACKAGES:
        package = _PACKAGES[error.name]
        return _Failure(
            ExitCode.USAGE,
            f"This command needs {package}, which is not installed here.",
            f"Install it: pip install {package}. Only finish, run of an engine, report, targets, "
            "profile and doctor work without torch and onnx.",
        )
    return _Failure(
        ExitCode.INTERNAL,
        f"Internal error: {type(error).__name__}: {error}",
        "This is a bug in deployfold. Run it again with --debug and report the traceback.",
    )


@contextmanager
def _interruptible(emit: Emit) -> Iterator[Emit]:
    """Treat SIGTERM and SIGHUP like Ctrl-C, so that temporary files and children are cleaned up.

    Python drops an exception that a signal raises inside a destructor or in the callback of a weak
    reference. So a dropped interrupt is raised again after a moment, or on Windows, which has no
    timers, with the pipeline's next event.
    """
    received: list[int] = []

    def again_in(seconds: float) -> None:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, seconds)

    def interrupt(number: int, frame: object) -> None:
        received.append(number)
        again_in(0.0)  # cancel the timer while this interrupt is handled
        raise KeyboardInterrupt

    def checked(event: Event) -> None:
        if received:
            interrupt(received[0], None)
        emit(event)

    def dropped(unraisable: Any) -> None:
        if received and isinstance(unraisable.exc_value, KeyboardInterrupt):
            again_in(_AGAIN)
        else:
            report_dropped(unraisable)

    report_dropped, sys.unraisablehook = sys.unraisablehook, dropped
    previous = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        ignored = number is None or signal.getsignal(number) is signal.SIG_IGN  # as under nohup
        if number is not None and not ignored:
            previous[number] = signal.signal(number, interrupt)
    try:
        yield checked
    finally:
        again_in(0.0)
        sys.unraisablehook = report_dropped
        for number, handler in previous.items():
            signal.signal(number, handler)
