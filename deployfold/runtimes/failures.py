"""How a runtime's failures are worded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from deployfold.errors import DeployfoldError, MeasureError


def summary(error: BaseException) -> str:
    """One line for people: the message of a deployfold error, else the type and first line.

    TorchScript's first lines say where it failed; the last one says why, with the type.
    """
    if isinstance(error, DeployfoldError):
        return error.message
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    name = type(error).__name__
    text = f"{name}: {lines[0]}" if lines else name
    if lines and lines[0].startswith("The following operation failed in the TorchScript"):
        text = lines[-1]
    return text if len(text) <= 200 else f"{text[:199]}…"


@contextmanager
def as_measure_error(what: str) -> Iterator[None]:
    """Turn any exception of a runtime into a :class:`MeasureError` that starts with ``what``."""
    try:
        yield
    except DeployfoldError:
        raise
    except Exception as error:
        raise MeasureError(f"{what}: {summary(error)}") from error
