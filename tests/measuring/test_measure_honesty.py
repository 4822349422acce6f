"""The measurement finds equal rows equal, and a slower row slower, while another program runs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest

from deployfold.measuring.latency import measure
from deployfold.reporting.row import Speedup
from deployfold.runtimes.protocol import Inputs, Step
from deployfold.util.arrays import Array

UNITS = 400
MATRIX = np.full((24, 24), 0.5)
"""One for all rows: two copies lie differently to the cache lines, are really not equally fast (by
up to 1 %), and come out different in 37 runs of 100."""


class Work:
    """Multiplies small matrices ``units`` times, on one thread: its cost is in proportion."""

    def __init__(self, units: int) -> None:
        self.units = units

    def load(self) -> None:
        pass

    def prepare(self, inputs: Inputs) -> Step:
        def step() -> None:
            for _ in range(self.units):
                np.dot(MATRIX, MATRIX)

        return step

    def run(self, inputs: Inputs) -> tuple[Array, ...]:
        return (MATRIX,)

    def close(self) -> None:
        pass


@pytest.fixture
def load() -> Iterator[None]:
    """Another program, which alternates work and pauses."""
    code = "import time\nwhile True:\n    for _ in range(10**6): pass\n    time.sleep(0.02)\n"
    other = subprocess.Popen([sys.executable, "-c", code])
    time.sleep(0.3)
    yield
    other.kill()
    other.wait()


def speedup(first: int, second: int, seed: int) -> Speedup:
    result = measure(
        {"base": Work(first), "row": Work(second)},
        (np.zeros((1, 1)),),
        threads=1,
        max_seconds=2.0,
        seed=seed,
    )
    measured = result.rows[1].latency
    assert measured is not None
    found = measured.speedup
    assert found is not None
    return found


@pytest.mark.slow
def test_equal_rows_are_equal_in_95_of_100_runs_under_load(load: None) -> None:
    equal = sum(speedup(UNITS, UNITS, seed).undecided for seed in range(100))
    assert equal >= 95


@pytest.mark.slow
def test_a_row_5_percent_slower_is_found_under_load(load: None) -> None:
    found = [speedup(UNITS, UNITS * 21 // 20, seed) for seed in range(20)]
    assert sum(one.high < 1 for one in found) >= 19
    assert np.median([one.value for one in found]) == pytest.approx(1 / 1.05, abs=0.01)
