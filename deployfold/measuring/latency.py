"""Latency of several artifacts, measured in interleaved rounds.

Every round runs every row, in a random order, so that a change of the machine's speed hits all rows
alike; a speed-up is the median over rounds of the ratio within a round. Three things make a number
repeatable, and each has its constant in :mod:`.session` or :mod:`.timed_runner`: warm-up until two
windows of calls agree, untimed calls at the head of each block (the row before leaves cold caches
and worker threads that still spin: eager ResNet-18 on two cores is 20 % slower without them), and
blocks of several calls for rows that take less than a millisecond.

Percentiles are of the pooled samples: every timed call of every completed round, none clipped or
padded. The ratio of medians is not what a speed-up is: a machine that slows down for a while moves
both rows of a round together, and the ratio within the round does not notice (a bootstrap of rows
drawn apart would call that noise, and the interval would be wider for nothing).
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from deployfold.errors import MeasureError
from deployfold.events import Emit, ignore
from deployfold.runtimes.protocol import Inputs, Runner
from deployfold.runtimes.threads import torch_threads

from .measurements import Latency, Measured, MeasurementInterrupted, Measurements
from .session import TOLERANCE, Session
from .stats import MIN_FOR_INTERVAL
from .timed_runner import TimedRunner


def measure(
    runners: Mapping[str, Runner],
    inputs: Inputs,
    *,
    baseline: str | None = None,
    threads: int | None = None,
    batch: int | None = None,
    max_seconds: float = 30.0,
    min_rounds: int = MIN_FOR_INTERVAL,
    tolerance: float = TOLERANCE,
    seed: int = 0,
    emit: Emit = ignore,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Measurements:
    """Load every runner, run them on the same inputs in turns, and close them.

    It ends when the 95 % interval of every speed-up is within ``tolerance`` after at least
    :data:`~.session.FIRST_LOOK` rounds, or when ``max_seconds`` of warm-up and rounds are over. It
    goes on past ``max_seconds`` until ``min_rounds`` rounds are complete, since fewer have no
    interval, and every row then tells so. A later round that the end of the time cuts off is
    dropped. A row that fails is reported as not measured and the others go on.

    Args:
        runners: by row name, in the order of the table.
        inputs: arrays or CPU tensors, in the order the model takes them.
        baseline: the row that speed-ups are relative to; the first one if ``None``.
        threads: torch's intra-op threads during the measurement; ``None`` leaves them.
        batch: samples per call, for the throughput; the first axis of the first input if ``None``.
        min_rounds: rounds that are run whatever time they take; at least 1.
        seed: of the order of rows and of the bootstrap.
        emit: gets a :class:`StageProgress` of stage ``"measure"`` a few times a second.
        clock: monotonic nanoseconds.

    Raises:
        MeasureError: there are no rows, or no row is named ``baseline``.
        MeasurementInterrupted: Ctrl-C, after all runners were closed.
    """
    if not runners:
        raise MeasureError("There is nothing to measure.")
    baseline = next(iter(runners)) if baseline is None else baseline
    if baseline not in runners:
        raise MeasureError(f"No row is named {baseline!r}.")
    if batch is None:
        shape = tuple(inputs[0].shape) if inputs else ()
        batch = int(shape[0]) if shape else 1
    rows = [TimedRunner(name, runner, clock) for name, runner in runners.items()]
    with torch_threads(threads) as count:
        session = Session(
            rows, baseline, count, batch, max_seconds, max(1, min_rounds), tolerance, seed, clock
        )
        try:
            session.prepare(inputs, emit)
            with _no_garbage_collection():
                session.rounds(emit)
        except KeyboardInterrupt:
            raise MeasurementInterrupted(session.result()) from None
        finally:
            for row in rows:
                row.close()
    return session.result()


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect before and after, and not in the middle of a timed call."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


__all__ = ["Latency", "Measured", "MeasurementInterrupted", "Measurements", "measure"]
