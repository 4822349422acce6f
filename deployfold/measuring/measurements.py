"""The results of a measurement: every row's latency and outputs."""

from __future__ import annotations

from dataclasses import dataclass

from deployfold.reporting.row import Latency
from deployfold.runtimes.protocol import Array

from .conditions import Contention


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
        rows: the rows.
        baseline: the name of the row that speed-ups are relative to.
        rounds: number of completed rounds.
        seconds: the time of warm-up and rounds.
        threads: torch's intra-op threads.
        converged: whether every interval reached the goal before the time limit.
        contention: the CPU time of other programs during the rounds; ``None`` if unknown.
    """

    rows: tuple[Measured, ...]
    baseline: str
    rounds: int
    seconds: float
    threads: int
    converged: bool
    contention: Contention | None = None


class MeasurementInterrupted(KeyboardInterrupt):
    """Ctrl-C during :func:`measure`; ``partial`` holds the completed rounds."""

    def __init__(self, partial: Measurements) -> None:
        super().__init__("measurement interrupted")
        self.partial = partial
