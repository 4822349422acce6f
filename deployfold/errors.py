"""The exceptions for users: each has a message, a hint on what to do, and an exit code.

Every error that reaches the command line is a :class:`DeployfoldError`. The CLI prints the message
and the hint, and ends with the exit code. Any other exception is a bug in deployfold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the command line, documented in ``--help`` and docs/pipelines.md."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    LOAD = 3
    FOLD = 4
    EXPORT = 5
    COMPILE = 6
    THRESHOLD = 7
    MEASURE = 8
    ACCURACY = 9
    BUNDLE = 10
    SWEEP = 11
    INTERRUPTED = 130


class DeployfoldError(Exception):
    """An error that a user can act on.

    Args:
        message: one sentence: what happened, and where.
        hint: what to do about it; ``None`` if the message says so already.
    """

    exit_code: ExitCode = ExitCode.INTERNAL

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(DeployfoldError):
    """The request is malformed, or cannot be done as asked."""

    exit_code = ExitCode.USAGE


class LoadError(DeployfoldError):
    """The model could not be read, or reading it would have run code from it."""

    exit_code = ExitCode.LOAD


class FoldError(DeployfoldError):
    """Folding failed, or the folded model is not the same function as the original."""

    exit_code = ExitCode.FOLD


class ExportError(DeployfoldError):
    """TorchScript, ONNX or ``torch.export`` failed, or lowering to a precision did."""

    exit_code = ExitCode.EXPORT


class CompileError(DeployfoldError):
    """TensorRT could not build the requested engine."""

    exit_code = ExitCode.COMPILE


class ThresholdError(DeployfoldError):
    """Everything was built and measured, but a result missed a limit that the user set."""

    exit_code = ExitCode.THRESHOLD


class MeasureError(DeployfoldError):
    """An artifact could not be run or measured."""

    exit_code = ExitCode.MEASURE


class AccuracyError(DeployfoldError):
    """A lowered model cannot keep the required accuracy; everything else that was built stays."""

    exit_code = ExitCode.ACCURACY


class SweepError(DeployfoldError):
    """Some builds of a sweep failed; the other builds are complete."""

    exit_code = ExitCode.SWEEP


class BundleError(DeployfoldError):
    """A bundle cannot be made, or an existing bundle is damaged or fails verification."""

    exit_code = ExitCode.BUNDLE


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in a command that keeps finished files.

    Args:
        hint: the files that are kept, and what to do.
    """

    def __init__(self, hint: str) -> None:
        super().__init__("interrupted")
        self.hint = hint


def interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error, also where a library raised another one on its way out.

    pybind11 turns an interrupt while an extension loads into an ImportError, and torch.save fails
    to close the archive that an interrupt left half written.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


_CHATTER = re.compile(r"\s*(\(Could this error message be|This is an internal miniz error).*")
"""What torch adds to the messages of its reader of archives, which no user can act on."""


def unknown_input(owner: str, name: str, known: Iterable[str], more: str = "") -> UsageError:
    """The error for an input that ``owner``, a model or a file, lacks; ``more`` ends the hint."""
    return UsageError(
        f"{owner} has no input named {name!r}.", hint=f"Its inputs are: {', '.join(known)}.{more}"
    )


def first_line(error: BaseException, limit: int = 300) -> str:
    """The most useful line of an exception's message: the first line of its innermost cause.

    PyTorch wraps the cause in further exceptions. For errors of TorchScript operations, the last
    line is taken: the first lines show the place, and the last one the reason. Where torch gives
    the exception's type alone there, the code at the place is added.

    Returns:
        At most ``limit`` characters; the exception's type if it has no message.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    in_torchscript = lines[0].startswith("The following operation failed in the TorchScript")
    if in_torchscript and lines[-1].endswith(":"):
        places = [index for index, line in enumerate(lines) if line.endswith("<--- HERE")]
        return _at_most(
            limit, f"{lines[-1]} {lines[places[-1] - 1] if places else ''}".rstrip(": ")
        )
    return _at_most(limit, _CHATTER.sub("", lines[-1 if in_torchscript else 0]))


def one_line(error: BaseException | str, limit: int = 300) -> str:
    """The whole message of an exception or a program on one line, without a full stop at its end.

    Returns:
        At most ``limit`` characters; the exception's type if it has no message.
    """
    text = " ".join(str(error).split()).rstrip(".")
    return _at_most(limit, text) if text else type(error).__name__


def _at_most(limit: int, text: str) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def nearest(name: str, known: Iterable[str], most: int = 1) -> str:
    """``Did you mean a or b?``, with the known names like ``name``; empty without any."""
    import difflib  # not at start-up

    near = difflib.get_close_matches(name, list(known), n=most)
    return f"Did you mean {' or '.join(near)}?" if near else ""


_LONGEST_NAME = 300


def first_few(names: Sequence[str], most: int = 3) -> str:
    """The first ``most`` names, and how many more there are: ``a, b, c and 4 more``."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(_at_most(_LONGEST_NAME, name) for name in names[:most]) + more
