"""How often what the guard promises holds on photographs that nothing has seen.

    PYTHONPATH=tests/support python tests/benchmarks/guard_coverage.py \
        [--net NAME] [--outputs FILE.npz]

NET of ``trained_nets.py`` is quantised to INT8 on the photographs that calibrate, and the guard's
search gives models with fewer and fewer layers in INT8. All of them run once on the other
photographs; FILE keeps the outputs. Of these photographs, random halves then guard, and the rest
judges: the guard takes the model with the most in INT8 whose likely figure holds a limit. Without
such a model, it takes the one that holds the limit as measured, and promises nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnx
from lowering_calls import lower_int8
from trained_nets import NETS

from deployfold.config.accuracy import GuardSpec
from deployfold.errors import AccuracyError
from deployfold.lowering.accuracy import Measurer
from deployfold.lowering.estimates import likely_agreement, likely_sqnr_db
from deployfold.lowering.qdq.lower import keep_accuracy
from deployfold.util.numerics import sqnr_db

SAMPLES, JUDGED, DIVISIONS = 126, 132, 200
Figure = Callable[[np.ndarray, np.ndarray, Sequence[int]], float]


def models(name: str, divided: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The fp32 outputs on the other photographs, and those of every model of the guard's search.

    The models come in the order of their share of INT8, the largest first.
    """
    net = NETS[name]
    folder = Path(tempfile.mkdtemp())
    source = folder / "net.onnx"
    net.export(source)
    key = onnx.load(source).graph.input[0].name
    files = sum(map(len, net.seen.values()))
    shares, outputs = [], []
    expected: list[np.ndarray] = []

    def searched(attempt, *rest):  # type: ignore[no-untyped-def]
        def kept(*args, **options):  # type: ignore[no-untyped-def]
            step = attempt(*args, **options)
            shares.append(step.share)
            return step

        return keep_accuracy(kept, *rest)

    compare = Measurer.compare

    def compared(self, actual):  # type: ignore[no-untyped-def]
        if len(self.feeds) == JUDGED:
            outputs.append(np.concatenate(actual[0]))
            expected[:] = self._expected[0]
        return compare(self, actual)

    with (
        patch("deployfold.lowering.qdq.lower.keep_accuracy", searched),
        patch.object(Measurer, "compare", compared),
    ):
        try:
            lower_int8(
                source, folder / "int8.onnx",
                calibration=[{key: one} for one in net.draw(net.seen, SAMPLES, 0)],
                pictures=[index % files for index in range(SAMPLES)],
                held_back=[{key: one} for one in net.draw(net.other, JUDGED, 2)],
                held_back_pictures=divided,
                guard=GuardSpec(min_sqnr_db=30.0, min_agreement=0.98, min_quantized_share=0.1),
            )  # fmt: skip
        except AccuracyError as error:
            print(error.message)
    order = np.argsort(-np.array(shares), kind="stable")
    return np.concatenate(expected), np.stack(outputs)[order]


def held(
    expected: np.ndarray,
    outputs: np.ndarray,
    pictures: np.ndarray,
    figures: tuple[Figure, Figure],
    limits: Sequence[float],
) -> np.ndarray:
    """For each limit, the divisions that give a promise, those that keep it, and the same without.

    Args:
        figures: the measured and the likely figure.
    """
    random = np.random.default_rng(0)
    counts = np.zeros((len(limits), 4), int)
    count = int(pictures.max()) + 1
    for _ in range(DIVISIONS):
        guards = np.isin(pictures, random.permutation(count)[: count // 2])
        seen = [
            [figure(expected[guards], one[guards], pictures[guards].tolist()) for figure in figures]
            for one in outputs
        ]
        for row, limit in zip(counts, limits, strict=True):
            for column, sure in ((0, True), (2, False)):
                passing = [i for i, (now, likely) in enumerate(seen)
                           if now >= limit and (likely >= limit or not sure)]  # fmt: skip
                if passing:
                    row[column] += 1
                    chosen = outputs[passing[0]]
                    row[column + 1] += figures[0](expected[~guards], chosen[~guards], ()) >= limit
                    break
    return counts


def _agreement(expected: np.ndarray, found: np.ndarray, _: Sequence[int]) -> float:
    return float((expected.argmax(1) == found.argmax(1)).mean())


def main() -> None:
    """Print a table for each of the two limits."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--net", default="MobileNetV2", choices=[*NETS])
    parser.add_argument("--outputs", type=Path, default=Path(tempfile.mkdtemp()) / "outputs.npz")
    given = parser.parse_args()
    photographs = sum(map(len, NETS[given.net].other.values()))
    pictures = np.arange(JUDGED) % photographs
    if not given.outputs.exists():
        expected, outputs = models(given.net, pictures.tolist())
        np.savez(given.outputs, expected=expected, outputs=outputs)
    stored = np.load(given.outputs)
    expected, outputs = (stored[key].astype(np.float64) for key in ("expected", "outputs"))
    whole = ", ".join(
        f"{sqnr_db(expected, one):.1f} dB {_agreement(expected, one, ()):.1%}" for one in outputs
    )
    print(f"{given.net}, {len(outputs)} models: {whole}")
    print("| limit | promised in | kept | held as measured in | kept |")
    print("|---|---|---|---|---|")
    for unit, limits, figures in (
        ("dB", (20.0, 22.0, 24.0, 26.0), (lambda e, f, _: sqnr_db(e, f), likely_sqnr_db)),
        ("%", (0.85, 0.9, 0.93, 0.95, 0.97), (_agreement, likely_agreement)),
    ):
        for limit, row in zip(
            limits, held(expected, outputs, pictures, figures, limits), strict=True
        ):
            shares = [
                f"{a} of {DIVISIONS} | {b / a:.1%}" if a else "0 | –" for a, b in row.reshape(2, 2)
            ]
            size = limit if unit == "dB" else 100 * limit
            print(f"| {size:g} {unit} | {' | '.join(shares)} |")


if __name__ == "__main__":
    main()
