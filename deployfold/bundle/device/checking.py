"""Compares an artifact with the outputs of the original model, and measures its latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deployfold.errors import MeasureError
from deployfold.finish import reference
from deployfold.measuring.stats import median_interval, percentiles
from deployfold.reporting.intervals import MIN_FOR_INTERVAL
from deployfold.runtimes.protocol import Step
from deployfold.util.arrays import Array
from deployfold.util.numerics import RunningDifference

MARGIN_DB, ENOUGH_DB, LOWERED_DB = 6.0, 40.0, 20.0
CALLS = 10
WARM_UP_SECONDS = 1.0
"""An idle GPU raises its clocks within a second of work."""


@dataclass(frozen=True)
class Check:
    """The difference of outputs from the original's; ``limit_db`` is the least SQNR that passes."""

    max_abs_diff: float
    sqnr_db: float
    limit_db: float

    @property
    def passed(self) -> bool:
        """Whether the artifact is as close to the original here as in the build."""
        return self.sqnr_db >= self.limit_db


@dataclass(frozen=True)
class Bench:
    """Latency of one call in milliseconds, the median with its 95 % interval."""

    median_ms: float
    low_ms: float
    high_ms: float
    p90_ms: float
    p99_ms: float
    calls: int


def read_reference(path: Path) -> tuple[list[Array], list[Array]]:
    """The inputs and the outputs of ``reference.npz``, in the model's order.

    Raises:
        MeasureError: the file cannot be read.
    """
    try:
        return reference.read_reference(path)
    except (OSError, ValueError) as error:
        raise MeasureError(f"{path.name} cannot be read: {error}.") from error


def check(
    outputs: Sequence[Array],
    expected: Sequence[Array],
    built_db: float | None,
    precision: str = "fp32",
) -> Check:
    """Compare outputs with the original's.

    An artifact passes if its SQNR is at most 6 dB below the build's, an allowance for other
    kernels, or at least 40 dB, an error of a hundredth of the signal. If the build did not measure
    the SQNR, the limit is 40 dB in fp32 and otherwise 20 dB, the default limit of INT8.

    Args:
        outputs, expected: the artifact's outputs and the original's.
        built_db: the SQNR in dB that the build measured; ``None`` without one.

    Raises:
        MeasureError: the number of outputs or a shape differs.
    """
    if [one.shape for one in outputs] != [one.shape for one in expected]:
        raise MeasureError("The outputs do not have the shapes of the original's.")
    tallies = []
    for first, second in zip(expected, outputs, strict=True):
        tally = RunningDifference()
        tally.add(first.reshape(-1).astype(np.float64), second.reshape(-1).astype(np.float64))
        tallies.append(tally)
    return Check(
        max_abs_diff=max(tally.max_abs_diff for tally in tallies),
        sqnr_db=min(tally.sqnr_db for tally in tallies),
        limit_db=_limit(built_db, precision),
    )


def _limit(built_db: float | None, precision: str) -> float:
    if built_db is not None:
        return min(ENOUGH_DB, built_db - MARGIN_DB)
    return ENOUGH_DB if precision == "fp32" else LOWERED_DB


def bench(step: Step, seconds: float) -> Bench:
    """Warm up, then time calls for ``seconds``, in at least ``MIN_FOR_INTERVAL`` rounds.

    Args:
        step: one inference. A GPU's clock times the computation, if the step reports it.
        seconds: the time for the calls. A slow model makes fewer calls per round, and may take
            longer.
    """

    def run() -> float:
        begin = time.perf_counter()
        device = step()
        return 1e3 * (time.perf_counter() - begin) if device is None else device.compute_ms

    calls = warm_up(run, seconds, CALLS)
    times: list[float] = []
    medians: list[float] = []
    start = time.perf_counter()
    while len(medians) < MIN_FOR_INTERVAL or time.perf_counter() - start < seconds:
        times += (fresh := [run() for _ in range(calls)])
        medians.append(statistics.median(fresh))
    median, p90, _, p99 = percentiles(times)
    interval = median_interval(medians, seed=0)
    return Bench(
        median, min(interval.low, median), max(interval.high, median), p90, p99, len(times)
    )


def warm_up(step: Callable[[], object], max_seconds: float, most: int) -> int:
    """Call ``step`` for a second, and return how many calls a round should have.

    ``MIN_FOR_INTERVAL`` rounds with that many calls take ``max_seconds``. The least is one call.

    Args:
        max_seconds: the time for all rounds; a shorter warm-up ends with it.
        most: the calls in a round of a fast model.
    """
    start, calls = time.perf_counter(), 0
    while not calls or time.perf_counter() - start < min(WARM_UP_SECONDS, max_seconds):
        step()
        calls += 1
    seconds = (time.perf_counter() - start) / calls
    affordable = max_seconds / (MIN_FOR_INTERVAL * seconds) if seconds > 0 else most
    return max(1, min(most, int(affordable)))
