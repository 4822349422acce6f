"""How often a limit that the guard promises holds on data that nothing has seen.

    PYTHONPATH=tests/support python tests/benchmarks/guard_seeds.py [--net NAME] [--seeds N]
        [--min-sqnr DB] [--min-agreement SHARE] [--each N]

The photographs of ``trained_inputs.py``, or pieces of its recordings, count as pictures. Each seed
divides the pictures anew: a third of them calibrates, a third guards, and a third judges. The
network is then quantised to INT8 from the beginning, with the guard on. Beside the given limits,
the table counts other ones, which the guard would have promised of the same model, and for every
model the strictest of these. The intervals take the seeds as independent, although they divide the
same pictures.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
from lowering_calls import lower_int8
from trained_inputs import OTHER_SOUND, SEEN_SOUND, frame, mono, paths
from trained_nets import NETS

from deployfold.config.accuracy import GuardSpec
from deployfold.errors import AccuracyError
from deployfold.lowering.accuracy import Measurer

PIECES = 6
"""Pieces of each recording."""

FIGURES = {
    "sqnr_db": ("SQNR", ".1f", (10.0, 15.0, 20.0, 25.0)),
    "agreement": ("agreement", ".1%", (0.6, 0.7, 0.8)),
}
"""The measured figures, and limits to count."""


def pool(name: str, each: int, random: np.random.Generator) -> list[list[np.ndarray]]:
    """So many inputs of each photograph, or of each piece of a recording."""
    net = NETS[name]
    if net.seen is SEEN_SOUND:
        sounds = [mono(path) for group in (SEEN_SOUND, OTHER_SOUND) for path in paths(group)]
        pieces = [piece for sound in sounds for piece in np.array_split(sound, PIECES)]
        return [[frame(piece, random) for _ in range(each)] for piece in pieces]
    files = [(package, (path,)) for group in (net.seen, net.other)
             for package, names in group.items() for path in names]  # fmt: skip
    return [list(net.draw({package: path}, each, int(random.integers(2**31))))
            for package, path in files]  # fmt: skip


def interval(kept: int, count: int) -> str:
    """The share with its 95 % interval (Wilson, 1927)."""
    share, z2 = kept / count, 1.96**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = math.sqrt(z2 * (share * (1 - share) / count + z2 / (4 * count**2))) / (1 + z2 / count)
    return f"{share:.1%} ({max(middle - half, 0):.0%} to {min(middle + half, 1):.0%})"


def main() -> None:
    """Print a line for each seed, and a table of the counts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--net", default="CREPE tiny", choices=[*NETS])
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--each", type=int, default=6)
    parser.add_argument("--min-sqnr", type=float, default=24.0)
    parser.add_argument("--min-agreement", type=float)
    given = parser.parse_args()
    guard = GuardSpec(min_sqnr_db=given.min_sqnr, min_agreement=given.min_agreement)
    folder = Path(tempfile.mkdtemp())
    source, path = folder / "net.onnx", folder / "int8.onnx"
    NETS[given.net].export(source)
    key = onnx.load(source).graph.input[0].name
    trials: dict[str, list[bool]] = defaultdict(list)
    for seed in range(given.seeds):
        random = np.random.default_rng(seed)
        pictures = pool(given.net, given.each, random)
        thirds = [np.repeat(part, given.each)
                  for part in np.array_split(random.permutation(len(pictures)), 3)]  # fmt: skip
        feeds = [[{key: pictures[one][at % given.each]} for at, one in enumerate(third)]
                 for third in thirds]  # fmt: skip
        try:
            made = lower_int8(
                source, path, calibration=feeds[0], pictures=thirds[0].tolist(),
                held_back=feeds[1], held_back_pictures=thirds[1].tolist(), judged=feeds[2],
                guard=guard,
            )  # fmt: skip
        except AccuracyError as error:
            print(f"{seed}: refused: {error.message}", flush=True)
            continue
        promised = not any("cannot be promised" in note for note in made.notes)
        guarding, judged = (
            Measurer(source, part, None, pictures=third.tolist()).measure(path)
            for part, third in zip(feeds[1:], thirds[1:], strict=True)
        )
        kept = judged.sqnr_db >= given.min_sqnr and (
            (judged.agreement or 0.0) >= (given.min_agreement or 0.0)
        )
        trials[f"as asked, {'' if promised else 'not '}promised"].append(kept)
        figures = []
        for name, (title, unit, limits) in FIGURES.items():
            seen, unseen = getattr(guarding, name), getattr(judged, name)
            if seen is None:
                continue
            likely = min(getattr(guarding, f"likely_{name}"), seen)
            for limit in limits:
                if likely >= limit:
                    trials[f"{title} {limit:g}"].append(unseen >= limit)
            trials[f"{title}, the strictest"].append(unseen >= likely)
            figures.append(f"{title} {seen:{unit}}, likely {likely:{unit}}, judged {unseen:{unit}}")
        print(
            f"{seed}: {'promised' if promised else 'not promised'}, {'; '.join(figures)}; "
            f"{made.macs_share:.0%} in INT8",
            flush=True,
        )
    print("| limit | promised | kept | share, 95 % interval |\n|---|---|---|---|")
    for title, held in sorted(trials.items()):
        print(f"| {title} | {len(held)} | {sum(held)} | {interval(sum(held), len(held))} |")


if __name__ == "__main__":
    main()
