"""How a runtime's failures are worded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from deployfold.errors import DeployfoldError, MeasureError, first_line


def summary(error: BaseException) -> str:
    """One line for people: the message of a deployfold error, else the type and its reason."""
    if isinstance(error, DeployfoldError):
        return error.message
    name, reason = type(error).__name__, first_line(error, 200)
    return reason if reason.startswith(name) else f"{name}: {reason}"


@contextmanager
def as_measure_error(what: str) -> Iterator[None]:
    """Turn any exception of a runtime into a :class:`MeasureError` that starts with ``what``."""
    try:
        yield
    except DeployfoldError:
        raise
    except Exception as error:
        raise MeasureError(f"{what}: {summary(error)}") from error
