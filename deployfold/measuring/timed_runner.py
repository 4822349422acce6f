"""Runs and times one row of a measurement."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from deployfold.runtimes.failures import summary
from deployfold.runtimes.protocol import Inputs, Runner, Step
from deployfold.runtimes.times import DeviceTimes, median_times
from deployfold.util.arrays import Array

from .machine_load import preemptions

BLOCK_NS = 1_000_000
"""Least duration of a block. A faster row runs several times per round, so that the resolution of
the clock and the cost of reading it do not matter."""
MAX_CALLS = 100
SETTLE_NS = 5_000_000
"""Duration of the untimed calls at the start of a block (at least one call): GNU OpenMP's threads
of the previous row spin for some milliseconds."""
GPU_SETTLE_NS = 50_000_000
"""Duration of these calls on a GPU, which lowers its clocks within milliseconds of idling."""
WARM_UP_WINDOW = 5
WARM_UP_AGREEMENT = 0.02


class TimedRunner:
    """A runner with its times so far. An exception of the runner sets ``failure``.

    Attributes:
        failure: the reason why the row cannot be measured; ``None`` without a failure.
        outputs: the outputs of the first inference.
        notes: the runner's notes on its numbers.
        on_gpu: whether a GPU's clock times the row; known after the warm-up.
        round_ms: the mean time of a call, for every completed round.
        round_median_ms: the median time of a call, for every completed round.
        blocks_ms: the times of the single calls, for every completed round.
    """

    def __init__(self, name: str, runner: Runner, clock: Callable[[], int]) -> None:
        self.name = name
        self.failure: str | None = None
        self.outputs: tuple[Array, ...] | None = None
        self.notes: tuple[str, ...] = ()
        self.round_ms: list[float] = []
        self.round_median_ms: list[float] = []
        self.blocks_ms: list[NDArray[np.float64]] = []
        self._runner = runner
        self._clock = clock
        self._step: Step = _not_loaded
        self._calls = 1
        self._pending: NDArray[np.float64] | None = None
        self._transfers: list[DeviceTimes] = []
        self._end_to_end_ms: list[float] = []
        self.on_gpu = False
        self._preempted = 0
        self._block_ns = 0

    def load(self, inputs: Inputs) -> None:
        """Load the artifact, run it once for its outputs, and prepare its inputs."""
        try:
            self._runner.load()
            self.notes = tuple(getattr(self._runner, "notes", ()))
            self.outputs = self._runner.run(inputs)
            self._step = self._runner.prepare(inputs)
        except Exception as error:
            self._fail(error)

    @property
    def part_notes(self) -> tuple[str, ...]:
        """The times of the parts of a model in two files; known after it was timed."""
        return tuple(getattr(self._runner, "part_notes", ()))

    def warm_up(self, budget_ns: int) -> None:
        """Call until the medians of two windows agree within 2 %, or the budget is spent.

        The warm-up has at least three calls, because TorchScript specialises on the first two.
        """
        times: list[float] = []
        start = self._clock()
        try:
            while True:
                times.append(self._call())
                spent = self._clock() - start
                if len(times) >= 3 and (spent >= budget_ns or _settled(times)):
                    break
        except Exception as error:
            self._fail(error)
            return
        typical_ns = statistics.median(times[-WARM_UP_WINDOW:]) * 1e6
        self._calls = min(MAX_CALLS, max(1, math.ceil(BLOCK_NS / typical_ns)))
        self._transfers.clear()
        self._end_to_end_ms.clear()

    def block(self) -> None:
        """Make the calls of one round; :meth:`keep` then adds their times."""
        try:
            start, preempted = self._clock(), preemptions()
            while True:
                self._call(record=False)
                if self._clock() - start >= (GPU_SETTLE_NS if self.on_gpu else SETTLE_NS):
                    break
            self._pending = np.array([self._call() for _ in range(self._calls)])
            self._preempted += preemptions() - preempted
            self._block_ns += self._clock() - start
        except Exception as error:
            self._fail(error)

    def keep(self) -> None:
        """Add the times of the latest block, because the round is complete."""
        if self._pending is not None:
            self.blocks_ms.append(self._pending)
            self.round_ms.append(float(self._pending.mean()))
            self.round_median_ms.append(float(np.median(self._pending)))
            self._pending = None

    def device_times(self) -> DeviceTimes | None:
        """The medians of the times by the GPU's clock; ``None`` for a row on the CPU."""
        return median_times(self._transfers) if self._transfers else None

    def end_to_end_ms(self) -> float | None:
        """The median of a call with its copies to and from the GPU, by the host's clock."""
        return statistics.median(self._end_to_end_ms) if self._end_to_end_ms else None

    def preemptions_per_second(self) -> float:
        """Involuntary context switches of this process per second of this row's blocks."""
        return self._preempted / (self._block_ns / 1e9) if self._block_ns else 0.0

    def close(self) -> None:
        """Close the runner in any state."""
        self._step = _not_loaded
        with suppress(Exception):  # a failure here does not affect the times
            self._runner.close()

    def _call(self, *, record: bool = True) -> float:
        """Milliseconds of one inference."""
        start = self._clock()
        device = self._step()
        end = self._clock()
        if device is None:
            return max(end - start, 1) / 1e6  # a coarse clock may give 0, which breaks ratios
        self.on_gpu = True
        if record:
            self._transfers.append(device)
            self._end_to_end_ms.append((end - start) / 1e6)
        return max(device.compute_ms, 1e-6)

    def _fail(self, error: Exception) -> None:
        rounds = len(self.round_ms)
        self.failure = summary(error) + (f" (after {rounds} rounds)" if rounds else "")


def _not_loaded() -> DeviceTimes | None:
    raise RuntimeError("load() comes first")


def _settled(times: list[float]) -> bool:
    if len(times) < 2 * WARM_UP_WINDOW:
        return False
    now = statistics.median(times[-WARM_UP_WINDOW:])
    before = statistics.median(times[-2 * WARM_UP_WINDOW : -WARM_UP_WINDOW])
    return abs(now - before) <= WARM_UP_AGREEMENT * before
