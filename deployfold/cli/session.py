"""What every command does around its work: errors become one sentence and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from deployfold.errors import DeployfoldError, ExitCode
from deployfold.events import Emit

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Session:
    """The two streams of one command, and what it may print on them.

    Attributes:
        out: the result and nothing else; the report alone under ``--json``.
        err: progress, notes and errors.
        emit: shows the events of a running pipeline on ``err``.
    """

    out: Console
    err: Console
    emit: Emit
    json: bool
    verbose: bool


@contextmanager
def session(
    *, json: bool = False, verbose: bool = False, debug: bool = False, no_color: bool = False
) -> Iterator[Session]:
    """Run a command's body; its errors are printed and turned into the exit code.

    Whatever libraries print on stdout meanwhile goes to stderr, so that a JSON report stays one.
    """
    from rich.console import Console

    from .progress import Progress

    disable = True if no_color else None
    err = Console(stderr=True, no_color=disable, highlight=False)
    with _real_stdout() as stream:
        out = Console(file=stream, no_color=disable, highlight=False)
        progress = Progress(err, verbose=verbose)
        code = ExitCode.OK
        try:
            with progress, _terminable():
                yield Session(out, err, progress.show, json, verbose)
        except DeployfoldError as error:
            _print_error(err, error.message, error.hint)
            _maybe_traceback(err, debug)
            code = error.exit_code
        except KeyboardInterrupt:
            _print_error(err, "Interrupted.", "Run the same command again to go on.")
            code = ExitCode.INTERRUPTED
        except BrokenPipeError:  # the reader of our output went away
            code = ExitCode.OK
        except Exception as error:
            _print_error(
                err,
                f"Internal error: {type(error).__name__}: {error}",
                "This is a bug in deployfold. Run it again with --debug and report the traceback.",
            )
            _maybe_traceback(err, debug)
            code = ExitCode.INTERNAL
    if code:
        raise SystemExit(int(code))


def _print_error(console: Console, message: str, hint: str | None) -> None:
    from rich.text import Text

    from deployfold.report.text import clean

    console.print(Text.assemble(("Error: ", "bold red"), clean(message)), soft_wrap=True)
    if hint:
        console.print(Text(clean(hint), style="dim"), soft_wrap=True)


def _maybe_traceback(console: Console, debug: bool) -> None:
    if debug:
        console.print_exception()


@contextmanager
def _terminable() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C, so that temporary files and children are cleaned up."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _real_stdout() -> Iterator[IO[str]]:
    """Yield a stream on the real stdout, while file descriptor 1 leads to stderr."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    stream = os.fdopen(saved, "w", encoding="utf-8", errors="replace")
    try:
        yield stream
    finally:
        with suppress(BrokenPipeError):
            stream.flush()
        os.dup2(saved, 1)
        stream.close()
