"""The units of a metric: how a value, a change and a limit are written in each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from . import text

Write = Callable[[float], str]


@dataclass(frozen=True)
class Unit:
    """A unit of measurement.

    Attributes:
        write: a value for a sentence, with its unit: ``29.7 ms``.
        cell: a value for a column whose header names the unit: ``29.7``.
        limits: the units that a limit may be written in, each with its factor to this one.
        change: a difference of two values; ``None`` writes it relative to the old value.
        limit: an amount of change that a limit allows.
    """

    write: Write
    cell: Write
    limits: Mapping[str, float]
    change: Write | None = None
    limit: Write | None = None

    def write_limit(self, amount: float) -> str:
        """An amount of change, in this unit: ``2.00 ms``, ``0.5 pt``."""
        return (self.limit or self.write)(amount)


def _size(value: float) -> str:
    return text.size(round(value))


def _count(value: float) -> str:
    return f"{value:,.0f}"


MILLISECONDS = Unit(
    lambda value: f"{text.digits(value)} ms",
    text.digits,
    {"ms": 1.0, "us": 1e-3, "s": 1e3},
)
BYTES = Unit(_size, _size, {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9})
COUNT = Unit(_count, _count, {"": 1.0})
SAMPLES_PER_SECOND = Unit(
    lambda value: f"{text.digits(value)}/s", text.digits, {"": 1.0, "/s": 1.0}
)
TIMES = Unit(
    lambda value: f"{text.ratio(value)}×", lambda value: f"{text.ratio(value)}×", {"": 1.0}
)
OUTPUT_UNITS = Unit(text.difference, text.difference, {"": 1.0})
"""The unit of the model's outputs, which deployfold does not know."""
DECIBELS = Unit(
    text.decibels, text.decibels, {"dB": 1.0}, change=lambda change: f"{change:+.1f} dB"
)
NUMBER = Unit(
    lambda value: f"{value:.4g}",
    lambda value: f"{value:.4g}",
    {"": 1.0, "pt": 0.01},
    change=lambda change: f"{change:+.4f}",
)
"""A number of a task metric; a point (pt) is 0.01."""
SHARE = Unit(
    text.percent,
    text.percent,
    {"pt": 0.01},
    change=lambda change: f"{100 * change:+.2f} pt",
    limit=lambda amount: f"{100 * amount:g} pt",
)
"""A share of 0 to 1, written in per cent; its changes are in percentage points (pt)."""
