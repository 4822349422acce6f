"""The results of a measurement: every row's latency and outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployfold.reporting.row import Latency
from deployfold.util.arrays import Array

from .stability import Evidence, doubts
from .stats import Interval, percentiles


def latency_of(
    samples: NDArray[np.float64], own: Interval, evidence: Evidence, batch: int, **more: Any
) -> Latency:
    """The latency of a row, from its calls.

    Args:
        samples: the milliseconds of every timed call.
        own: the interval of the rounds' medians.
        evidence: what decides whether the numbers are reliable.
        batch: samples per call.
        more: further fields of the latency, such as the speed-up.
    """
    median, p90, p95, p99 = percentiles(samples)
    found, device = doubts(evidence), evidence.device
    return Latency(
        median_ms=median,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        throughput=batch / median * 1e3 if median else math.inf,
        rounds=evidence.rounds,
        samples=len(samples),
        stable=not found,
        note="; ".join(one.text for one in found) or None,
        doubts=tuple(one.kind for one in found),
        h2d_ms=None if device is None else device.h2d_ms,
        d2h_ms=None if device is None else device.d2h_ms,
        # The median of pooled calls can lie outside the interval of the rounds' medians.
        median_low_ms=min(own.low, median),
        median_high_ms=max(own.high, median),
        variation=evidence.variation,
        gpu=evidence.gpu,
        **more,
    )


@dataclass(frozen=True, eq=False)
class Measured:
    """One row.

    Attributes:
        latency: ``None`` for the reason in ``not_measured``.
        outputs: the outputs of the first inference.
        notes: the runner's notes on its numbers.
    """

    name: str
    latency: Latency | None
    not_measured: str | None = None
    outputs: tuple[Array, ...] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Measurements:
    """All rows in their original order, and the course of the measurement.

    Attributes:
        rows: the rows; speed-ups are relative to the first one.
        rounds: number of completed rounds.
        seconds: the time of warm-up and rounds.
        converged: whether every interval reached the goal before the time limit.
    """

    rows: tuple[Measured, ...]
    rounds: int
    seconds: float
    converged: bool


class MeasurementInterrupted(KeyboardInterrupt):
    """Ctrl-C during :func:`.latency.measure`; ``partial`` holds the completed rounds."""

    def __init__(self, partial: Measurements) -> None:
        super().__init__("measurement interrupted")
        self.partial = partial
