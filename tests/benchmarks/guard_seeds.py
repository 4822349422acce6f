"""How often a limit that the guard promises holds on sound that nothing has heard.

    PYTHONPATH=tests/support python tests/benchmarks/guard_seeds.py [--seeds N] [--min-sqnr DB]

The recordings of ``trained_inputs.py`` are divided into pieces, which count as pictures. Each seed
divides the pieces anew: a third of them calibrates, a third guards, and a third judges. CREPE tiny
is then quantised to INT8 from the beginning, with the guard on.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx
from lowering_calls import lower_int8
from trained_inputs import OTHER_SOUND, SEEN_SOUND, frame, mono, paths
from trained_nets import NETS

from deployfold.config.accuracy import GuardSpec
from deployfold.errors import AccuracyError

PIECES = 6
"""Pieces of each recording."""

FRAMES = 6
"""Frames of each piece."""


def main() -> None:
    """Print a line for each seed, and the counts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--min-sqnr", type=float, default=24.0)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    source = folder / "net.onnx"
    NETS["CREPE tiny"].export(source)
    key = onnx.load(source).graph.input[0].name
    sounds = [mono(path) for group in (SEEN_SOUND, OTHER_SOUND) for path in paths(group)]
    pieces = [piece for sound in sounds for piece in np.array_split(sound, PIECES)]
    counts = {True: [0, 0], False: [0, 0]}
    for seed in range(given.seeds):
        random = np.random.default_rng(seed)
        order = random.permutation(len(pieces))
        thirds = [np.repeat(part, FRAMES) for part in np.array_split(order, 3)]
        feeds = [[{key: frame(pieces[one], random)} for one in part] for part in thirds]
        try:
            made = lower_int8(
                source, folder / "int8.onnx", calibration=feeds[0], pictures=thirds[0].tolist(),
                held_back=feeds[1], held_back_pictures=thirds[1].tolist(), judged=feeds[2],
                guard=GuardSpec(min_sqnr_db=given.min_sqnr),
            )  # fmt: skip
        except AccuracyError as error:
            print(f"{seed}: refused: {error.message}", flush=True)
            continue
        promised = not any("cannot be promised" in note for note in made.notes)
        kept = made.sqnr_db >= given.min_sqnr
        counts[promised][0] += 1
        counts[promised][1] += kept
        print(
            f"{seed}: {'promised' if promised else 'not promised'}, {made.sqnr_db:.1f} dB, "
            f"{made.macs_share:.0%} in INT8",
            flush=True,
        )
    for promised, (count, kept) in counts.items():
        print(f"{'promised' if promised else 'not promised'}: {count}, kept: {kept}")


if __name__ == "__main__":
    main()
