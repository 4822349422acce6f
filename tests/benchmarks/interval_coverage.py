"""Measures how often the 95 % intervals of a latency contain the true value.

    python tests/benchmarks/interval_coverage.py [runs]

Simulates rounds of a row whose true median and 95th percentile are known: independent rounds,
rounds with an autocorrelation from one to the next (the machine is slow for a while), and a slow
drift (autocorrelation 0.95) under independent noise of the same size. Prints the share of runs in
which the interval of the median held the true one, beside what the intervals would hold if rounds
were taken for independent, and the same for the 95th percentile. Takes about a minute.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from deployfold.measuring import stats

Values = NDArray[np.float64]
ROUNDS = (6, 15, 30, 60, 200)
SPREAD = 0.1
P95 = math.exp(SPREAD * 1.6448536269514722)


def autoregressive(rng: np.random.Generator, count: int, rho: float) -> Values:
    """Standard normal values, each with the correlation ``rho`` to the one before."""
    values = rng.normal(size=count + 200)
    for index in range(1, values.size):
        values[index] = rho * values[index - 1] + math.sqrt(1 - rho**2) * values[index]
    return values[200:]


def drifting(rng: np.random.Generator, count: int) -> Values:
    """A slow drift and independent noise, each with half of the variance."""
    return (autoregressive(rng, count, 0.95) + rng.normal(size=count)) / math.sqrt(2)


PROCESSES: dict[str, Callable[[np.random.Generator, int], Values]] = {
    "independent": lambda rng, count: rng.normal(size=count),
    "autocorrelation 0.3": lambda rng, count: autoregressive(rng, count, 0.3),
    "autocorrelation 0.6": lambda rng, count: autoregressive(rng, count, 0.6),
    "autocorrelation 0.9": lambda rng, count: autoregressive(rng, count, 0.9),
    "drift under noise": drifting,
}


def independent_interval(values: Values, seed: int) -> stats.Interval:
    """The interval as if the order of the rounds told nothing."""
    return stats.median_interval(np.random.default_rng(seed).permutation(values), seed)


def coverage(process: str, rounds: int, runs: int) -> tuple[float, float, float | None]:
    """Shares of runs: the median's interval, the same without order, and the percentile's."""
    rng = np.random.default_rng(rounds)
    held = without = tails = bounded = 0
    for seed in range(runs):
        values = np.exp(SPREAD * PROCESSES[process](rng, rounds))
        one = stats.median_interval(values, seed)
        held += one.low <= 1 <= one.high
        other = independent_interval(values, seed)
        without += other.low <= 1 <= other.high
        tail = stats.percentile_interval([np.array([value]) for value in values], 95)
        bounded += tail.bounded
        tails += tail.bounded and tail.low <= P95 <= tail.high
    return held / runs, without / runs, tails / bounded if bounded > runs / 2 else None


def main() -> None:
    """Print a line for every process and number of rounds."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    print(f"{runs} runs each; coverage of 95 % intervals")
    print(f"{'rounds are':20} {'rounds':>6} {'median':>8} {'order ignored':>14} {'p95':>8}")
    for process in PROCESSES:
        for rounds in ROUNDS:
            held, without, tail = coverage(process, rounds, runs)
            last = "none" if tail is None else f"{tail:.1%}"
            print(f"{process:20} {rounds:6} {held:8.1%} {without:14.1%} {last:>8}", flush=True)


if __name__ == "__main__":
    main()
