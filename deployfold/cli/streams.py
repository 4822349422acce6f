"""Handles standard streams that are closed, full, or a pipe without a reader.

The reader of a pipe may end early: ``deployfold build … | head -2``. The command then continues
with the same exit code, and the rest of the output is dropped. A full disk is an error only for the
stream of the result.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

ALIKE = "deployfold.alike"
"""The error handler for encodings that lack a character: it writes a similar character."""
_ALIKE = str.maketrans("≈✓Δ→–…×·±°«»●○⁰¹²³⁴⁵⁶⁷⁸⁹", '~+d>-.x.+o""*o0123456789')


def _write_alike(error: UnicodeError) -> tuple[str, int]:
    """One ASCII character for each that cannot be written, so that columns stay aligned."""
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end].translate(_ALIKE)
    return "".join(one if one.isascii() else "?" for one in missing), error.end


codecs.register_error(ALIKE, _write_alike)


class _Pipe(io.FileIO):
    """A file that drops all data once its reader is gone."""

    def write(self, data: Any) -> int:
        """Write to the file; drop the data if it is a pipe without a reader."""
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            return len(memoryview(data).cast("B"))


class Result(io.TextIOWrapper):
    """The stream of a command's result.

    Attributes:
        used: whether anything was written.
    """

    used = False

    def write(self, text: str) -> int:
        """Write the text."""
        self.used = True
        return super().write(text)


class Lossy:
    """A text stream that drops text on errors, so that progress never ends a build."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text, or drop it."""
        with suppress(OSError, ValueError):  # ValueError: the stream was closed
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream, ignoring errors."""
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def open_closed_streams() -> None:
    """Connect standard streams that are closed at the start to the null device.

    Otherwise the next opened file would get their descriptor, and a library that prints to stdout
    would write into that file.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115


def write_alike() -> None:
    """Let both standard streams replace characters that their encoding lacks by similar ones."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors=ALIKE)


def discard_stdout() -> None:
    """Connect stdout to the null device, so that the interpreter's last flush cannot fail."""
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


@contextmanager
def real_stdout(*, json: bool = False) -> Iterator[Result]:
    """Yield a stream on the real stdout, and connect file descriptor 1 to stderr meanwhile.

    Output of libraries to stdout goes to stderr, so that a JSON report stays valid.

    Args:
        json: the stream gets JSON, which is UTF-8 in any locale.
    """
    with suppress(OSError):
        sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    raw = io.BufferedWriter(_Pipe(os.dup(saved), "w"))
    encoding = "utf-8" if json else getattr(sys.stdout, "encoding", None) or "utf-8"
    utf = encoding.lower().startswith("utf")
    stream = Result(raw, encoding=encoding, errors="replace" if utf else ALIKE)
    try:
        yield stream
    finally:
        with suppress(OSError):  # closing flushes again; the session has reported the error
            stream.close()
        os.dup2(saved, 1)
        os.close(saved)
