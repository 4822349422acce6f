"""How often the SQNR that the guard was asked for holds on recordings that nothing has seen.

    PYTHONPATH=tests/support python tests/benchmarks/guard_coverage.py [DB] [SEEDS]

CREPE tiny, which ``trained_nets.py`` describes, in INT8 with a limit of DB. Each recording is cut
into passages. By the seed, half of the passages calibrate, a quarter guards, and a quarter judges
the written file. Every passage gives six frames.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from lowering_calls import lower_int8
from trained_inputs import OTHER_SOUND, SEEN_SOUND, frame, mono, paths
from trained_nets import NETS

from deployfold.config.accuracy import GuardSpec
from deployfold.errors import AccuracyError

PASSAGES = 10
"""The passages of a recording."""

FRAMES = 6


def main(limit: float, seeds: int) -> None:
    """Print one line a seed, and the count."""
    source = Path(tempfile.mkdtemp()) / "crepe.onnx"
    NETS["CREPE tiny"].export(source)
    key = onnx.load(source).graph.input[0].name
    files = paths(SEEN_SOUND) + paths(OTHER_SOUND)
    passages = [part for file in files for part in np.array_split(mono(file), PASSAGES)]
    held = refused = 0
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        order = random.permutation(len(passages))

        def drawn(numbers: Iterable[int], random: np.random.Generator = random) -> list:
            return [
                {key: frame(passages[number], random)} for number in numbers for _ in range(FRAMES)
            ]

        half, rest = len(order) // 2, len(order) * 3 // 4
        try:
            made = lower_int8(
                source, source.with_name("int8.onnx"), guard=GuardSpec(min_sqnr_db=limit),
                calibration=drawn(order[:half]), pictures=np.repeat(order[:half], FRAMES).tolist(),
                held_back=drawn(order[half:rest]), judged=drawn(order[rest:]),
            )  # fmt: skip
        except AccuracyError as error:
            refused += 1
            print(f"seed {seed}: refused: {error}", flush=True)
            continue
        held += made.sqnr_db >= limit
        print(
            f"seed {seed}: {made.sqnr_db:.1f} dB, {made.macs_share:.0%} of the MACs in int8",
            flush=True,
        )
    print(f"{limit:g} dB: held {held} of {seeds - refused}, refused {refused}")


if __name__ == "__main__":
    limit, seeds = (*sys.argv[1:], *("32", "20")[len(sys.argv) - 1 :])
    main(float(limit), int(seeds))
