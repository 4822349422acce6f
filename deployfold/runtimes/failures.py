"""Turns the failures of runtimes into errors for users."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployfold.errors import DeployfoldError, MeasureError, first_line

ON_CPU = "engines run on a GPU, but the rows of this table run on the CPU"


class NoDevice(MeasureError):
    """The GPU that a file was compiled for is not in this machine.

    Attributes:
        built_for: the GPUs that the file was compiled for, such as ``sm_80, sm_89``.
        reason: the missing driver or GPU, in one sentence.
    """

    def __init__(self, built_for: str, reason: str) -> None:
        super().__init__(
            f"built for {built_for}; measure it there: deployfold bench DIR", hint=reason
        )
        self.built_for, self.reason = built_for, reason


def check_there(path: Path) -> None:
    """Refuse a file that is not there, by a :class:`MeasureError`."""
    if not path.is_file():
        raise MeasureError(f"{path.name} cannot be loaded: there is no such file.")


def summary(error: BaseException) -> str:
    """One line for users: the message of a deployfold error, else the type and the message."""
    if isinstance(error, DeployfoldError):
        return error.message
    name, reason = type(error).__name__, first_line(error, 200)
    return reason if reason.startswith(name) else f"{name}: {reason}"


@contextmanager
def as_measure_error(what: str) -> Iterator[None]:
    """Turn any exception in the block into a :class:`MeasureError` that starts with ``what``."""
    try:
        yield
    except DeployfoldError:
        raise
    except Exception as error:
        raise MeasureError(f"{what}: {summary(error)}") from error
