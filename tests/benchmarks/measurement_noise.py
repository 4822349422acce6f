"""Checks that the measurement tells noise from a difference: two rows, and a program that keeps the
CPU busy.

    python tests/benchmarks/measurement_noise.py [runs [seconds a run [pixels]]]

ResNet-18 in eager PyTorch, on images of 64 pixels, is measured against itself, and against itself
made 5 % slower by a wait that is 5 % of each call's own time, in turns, while another process works
in bursts of random length. Prints how many of the identical pairs came out as ``≈`` (95 of 100 are
wanted), how many of the slowed ones as slower, and what their ratios were. A run with too few
rounds for an interval says nothing, and is counted apart.
"""

from __future__ import annotations

import multiprocessing
import random
import statistics
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch
import torchvision

from deployfold.measuring.latency import measure
from deployfold.reporting.row import Latency
from deployfold.runtimes.eager import EagerRunner
from deployfold.runtimes.protocol import Inputs, Step

SLOWER = 0.05


class Slowed(EagerRunner):
    """Takes a given share longer for every call, whatever the call takes."""

    def prepare(self, inputs: Inputs) -> Step:
        """Prepare the same inference, followed by a wait that keeps the core busy."""
        step = super().prepare(inputs)

        def slowed() -> None:
            start = time.perf_counter_ns()
            step()
            end = time.perf_counter_ns()
            until = end + round(SLOWER * (end - start))
            while time.perf_counter_ns() < until:
                pass

        return slowed


def neighbour(seed: int) -> None:
    """Work and rest in turns of up to 0.2 s, for ever."""
    draw = random.Random(seed)
    matrix = np.ones((256, 256))
    while True:
        until = time.perf_counter() + draw.uniform(0, 0.2)
        while time.perf_counter() < until:
            matrix @ matrix
        time.sleep(draw.uniform(0, 0.2))


def compared(other: type[EagerRunner], seed: int, seconds: float, pixels: int) -> Latency:
    """The second of two rows: ResNet-18, and the same as ``other`` runs it."""
    torch.manual_seed(0)
    net = torchvision.models.resnet18().eval()
    found = measure(
        {"first": EagerRunner(net), "second": other(net)},
        (torch.randn(1, 3, pixels, pixels),),
        threads=1,
        max_seconds=seconds,
        seed=seed,
    )
    latency = found.rows[1].latency
    assert latency is not None, found.rows[1].not_measured
    return latency


def main(words: Sequence[str]) -> None:
    """Print the counts."""
    runs = int(words[0]) if words else 100
    seconds = float(words[1]) if len(words) > 1 else 3.0
    pixels = int(words[2]) if len(words) > 2 else 64
    load = multiprocessing.get_context("spawn").Process(target=neighbour, args=(0,), daemon=True)
    load.start()
    same, slowed = [], []
    try:
        for seed in range(runs):
            same.append(compared(EagerRunner, seed, seconds, pixels))
            slowed.append(compared(Slowed, seed, seconds, pixels))
    finally:
        load.terminate()
    equal = [item for item in same if item.speedup and item.speedup.undecided]
    found = [item for item in slowed if item.speedup and item.speedup.high < 1]
    print(f"identical rows: ≈ in {len(equal)} of {runs}; {_described(same)}")
    print(f"rows {SLOWER:.0%} slower: found in {len(found)} of {runs}; {_described(slowed)}")


def _described(rows: Sequence[Latency]) -> str:
    speedups = [row.speedup for row in rows if row.speedup]
    silent = sum(not one.bounded for one in speedups)
    low, median, high = np.percentile([1 / one.value for one in speedups], [5, 50, 95])
    rounds = statistics.median(row.rounds for row in rows)
    others = statistics.median(row.other_cpus or 0.0 for row in rows)
    return (
        f"{silent} with too few rounds for an interval, {rounds:.0f} rounds at the median; time "
        f"ratio {median:.3f} (5th to 95th percentile {low:.3f} to {high:.3f}); other programs kept "
        f"{others:.1f} CPUs busy"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
