"""Warms up one model, and chooses the number of calls in a round of its measurement."""

from __future__ import annotations

import time
from collections.abc import Callable

from .stats import MIN_FOR_INTERVAL

WARM_UP_SECONDS = 1.0
"""An idle GPU raises its clocks within a second of work."""


def warm_up(
    step: Callable[[], object],
    max_seconds: float,
    most: int,
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """Call ``step`` for a second, and return how many calls a round should have.

    ``MIN_FOR_INTERVAL`` rounds with that many calls take ``max_seconds``. The least is one call.

    Args:
        max_seconds: the time for all rounds; a shorter warm-up ends with it.
        most: the calls in a round of a fast model.
        clock: returns the time in seconds.
    """
    start, calls = clock(), 0
    while not calls or clock() - start < min(WARM_UP_SECONDS, max_seconds):
        step()
        calls += 1
    seconds = (clock() - start) / calls
    affordable = max_seconds / (MIN_FOR_INTERVAL * seconds) if seconds > 0 else most
    return max(1, min(most, int(affordable)))
