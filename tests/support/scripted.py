"""A clock that stands still, and runners that move the clock when they are called."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from deployfold.runtimes.protocol import DeviceTimes, Inputs, Step

INPUTS = (np.zeros((4, 3), dtype=np.float32),)
MS = 1_000_000


class Clock:
    """Nanoseconds that pass only when a runner advances them."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


class Scripted:
    """A runner whose calls take the given nanoseconds, one after the other."""

    def __init__(
        self, clock: Clock, durations: Iterator[int] | int, calls: list[str] | None = None
    ) -> None:
        self.clock = clock
        self.durations = itertools.repeat(durations) if isinstance(durations, int) else durations
        self.calls = calls if calls is not None else []
        self.name = ""
        self.closed = False
        self.fails_at: int | None = None
        self.error: BaseException = RuntimeError("first line\nsecond line")
        self.count = 0

    def load(self) -> None:
        pass

    def prepare(self, inputs: Inputs) -> Step:
        return self.step

    def step(self) -> DeviceTimes | None:
        self.count += 1
        if self.fails_at is not None and self.count >= self.fails_at:
            raise self.error
        self.calls.append(self.name)
        self.clock.now += next(self.durations)
        return None

    def run(self, inputs: Inputs) -> tuple[np.ndarray, ...]:
        return (np.ones(1),)

    def close(self) -> None:
        self.closed = True
