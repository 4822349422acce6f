"""The standard streams of a command: closed, full, or into a pipe whose reader is gone.

Nobody may be reading: ``deployfold build … | head -2``. The work and its exit code stay the same
then, and the rest of the output goes nowhere. A full disk is an error of the result's stream alone.
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
"""The error handler for encodings that lack a character: it writes one that looks like it."""
_ALIKE = str.maketrans("≈✓Δ→–…×·±°«»●○⁰¹²³⁴⁵⁶⁷⁸⁹", '~+d>-.x.+o""*o0123456789')


def _write_alike(error: UnicodeError) -> tuple[str, int]:
    """One ASCII character for each that cannot be written, so that columns stay aligned."""
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end].translate(_ALIKE)
    return "".join(one if one.isascii() else "?" for one in missing), error.end


codecs.register_error(ALIKE, _write_alike)


class _Pipe(io.FileIO):
    """A file that takes everything once its reader is gone."""

    def write(self, data: Any) -> int:
        """Write to the file; drop the data if it is a pipe that nobody reads."""
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            return len(memoryview(data).cast("B"))


class Lossy:
    """A text stream that drops what cannot be written: progress must not end a build."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text, or drop it."""
        with suppress(OSError, ValueError):  # ValueError: the stream was closed
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what can be written."""
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def open_closed_streams() -> None:
    """Lead standard streams that were closed at the start to the null device.

    Otherwise the next file that is opened takes their descriptor, and a library that prints to
    stdout prints into it.
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
    """Let both standard streams write a character like one that their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors=ALIKE)


def discard_stdout() -> None:
    """Lead stdout to the null device, so that the interpreter's last flush cannot fail."""
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


@contextmanager
def real_stdout(*, json: bool = False) -> Iterator[IO[str]]:
    """Yield a stream on the real stdout, while file descriptor 1 leads to stderr.

    What libraries print on stdout meanwhile goes to stderr, so that a JSON report stays one.

    Args:
        json: the stream takes JSON, which is UTF-8 whatever the encoding of stdout.
    """
    with suppress(OSError):
        sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    raw = io.BufferedWriter(_Pipe(os.dup(saved), "w"))
    encoding = "utf-8" if json else getattr(sys.stdout, "encoding", None) or "utf-8"
    utf = encoding.lower().startswith("utf")
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="replace" if utf else ALIKE)
    try:
        yield stream
    finally:
        with suppress(OSError):  # closing flushes again; the session has reported the error
            stream.close()
        os.dup2(saved, 1)
        os.close(saved)
