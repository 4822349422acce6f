"""Measures the latency of several artifacts in interleaved rounds.

Every round runs every row in a random order, so that a change of the machine's speed affects all
rows equally. A speed-up is the median over rounds of the ratio within a round. Three measures make
the numbers repeatable; their constants are in :mod:`.session` and :mod:`.timed_runner`:

1. Warm-up until two windows of calls agree.
2. Untimed calls at the start of each block. The previous row leaves cold caches and worker threads
   that still spin; without these calls, eager ResNet-18 on two cores is 20 % slower.
3. Blocks of several calls for rows that take less than a millisecond.

Percentiles use the pooled samples: every timed call of every completed round, none clipped or
padded. A speed-up is not the ratio of two medians: when the machine slows down for a while, both
rows of a round become slower, but their ratio stays the same. A bootstrap that draws the rows
independently would treat the slowdown as noise and widen the interval.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from deployfold.config.build_spec import BuildSpec
from deployfold.errors import MeasureError
from deployfold.events import Emit, ignore
from deployfold.reporting.intervals import MIN_FOR_INTERVAL
from deployfold.runtimes.inputs import batch_of
from deployfold.runtimes.protocol import Inputs, Runner

from .measurements import MeasurementInterrupted, Measurements
from .session import Session
from .timed_runner import TimedRunner


def measure(
    runners: Mapping[str, Runner],
    inputs: Inputs,
    *,
    threads: int | None = None,
    batch: int | None = None,
    max_seconds: float = BuildSpec.max_seconds,
    min_rounds: int = MIN_FOR_INTERVAL,
    seed: int = 0,
    device: str | None = None,
    emit: Emit = ignore,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Measurements:
    """Load every runner, run them on the same inputs in turn, and close them.

    The measurement ends when the 95 % interval of every speed-up is within
    :data:`~.stability.TOLERANCE` after at least :data:`~.session.FIRST_LOOK` rounds, or after
    ``max_seconds`` of warm-up and rounds. The first ``min_rounds`` rounds always complete, because
    fewer rounds have no interval; every row reports the time past ``max_seconds``. A later round
    that the time limit cuts off is dropped. A row that fails is reported as not measured, and the
    others continue.

    Args:
        runners: the runners by row name, in the order of the table; speed-ups are relative to the
            first one.
        inputs: arrays or CPU tensors, in the order of the model's inputs.
        threads: torch's intra-op threads during the measurement; ``None`` keeps them.
        batch: samples per call, for the throughput; ``None`` for the first input's first axis.
        max_seconds: the time limit for warm-up and rounds.
        min_rounds: the number of rounds that always complete; at least 1.
        seed: seed of the order of rows and of the bootstrap.
        device: the device that the runners use; the clocks of a GPU are read after the rounds.
        emit: receives a :class:`~deployfold.events.StageProgress` of stage ``"measure"`` a few
            times a second.
        clock: returns monotonic nanoseconds.

    Raises:
        MeasureError: there are no rows.
        MeasurementInterrupted: Ctrl-C, after all runners were closed.
    """
    if not runners:
        raise MeasureError("There is nothing to measure.")
    batch = batch_of(inputs) if batch is None else batch
    rows = [TimedRunner(name, runner, clock) for name, runner in runners.items()]
    with torch_threads(threads) as count:
        session = Session(rows, count, batch, max_seconds, max(1, min_rounds), seed, clock, device)
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
def torch_threads(count: int | None) -> Iterator[int]:
    """Let torch use ``count`` intra-op threads inside the block, and restore the old number.

    ``None`` keeps torch's number. Yields the number in force: 1 where nothing uses torch, as when
    a device finishes a build.
    """
    if count is None and "torch" not in sys.modules:
        yield 1
        return
    import torch

    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Disable Python's garbage collection, which could run within a timed call."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
