"""Limits that make a build fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deployfold.errors import UsageError

from .flag_values import split_number
from .option_field import Panel, option


def parse_row_limits(texts: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Read every ``ROW=LIMIT`` of ``--max-latency-ms``, ``--max-diff-of``, ``--min-speedup-of``.

    Raises:
        UsageError: a text is not ``ROW=LIMIT`` with a positive number.
    """
    limits = []
    for text in texts:
        row, limit = split_number(text)
        if not row or not limit > 0:
            raise UsageError(
                f"{text!r} is not a limit for a row.",
                hint="Write it as ROW=NUMBER, such as onnxruntime=12.5.",
            )
        limits.append((row, limit))
    return tuple(limits)


@dataclass(frozen=True)
class Thresholds:
    """Limits that make a build fail with exit code 7 after all measurements."""

    min_speedup: float | None = option(
        None,
        "Fail unless a row is X times as fast; the original counts as 1.",
        Panel.LIMITS,
        metavar="X",
        common=True,
        least=0,
    )
    max_diff: float | None = option(
        None,
        "Fail if any row's outputs differ from the original's by more (max abs difference), or if "
        "a row was not measured.",
        Panel.LIMITS,
        metavar="D",
        least=0,
    )
    max_diff_of: tuple[tuple[str, float], ...] = option(
        (),
        "Fail if this row's outputs differ by more; repeat it for several rows.",
        Panel.LIMITS,
        metavar="ROW=D",
        read=parse_row_limits,
    )
    min_speedup_of: tuple[tuple[str, float], ...] = option(
        (),
        "Fail unless this row is X times as fast; repeat it for several rows.",
        Panel.LIMITS,
        metavar="ROW=X",
        read=parse_row_limits,
    )
    max_latency_ms: tuple[tuple[str, float], ...] = option(
        (),
        "Fail if this row's median latency is higher; repeat it for several rows.",
        Panel.LIMITS,
        metavar="ROW=MS",
        read=parse_row_limits,
    )
