"""The outputs of a quantised model against fp32, on the same samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deployfold.exporting.session import Array, open_session, run_session
from deployfold.util.numerics import max_abs_diff, sqnr_db

_SHUFFLES = 32


@dataclass(frozen=True)
class Measured:
    """A quantised model against fp32 on the same samples.

    Attributes:
        sqnr_db: of the worst output, in dB, over all samples.
        noise: noise power over signal power of that output.
        agreement: share of samples whose top-1 class stayed; ``None`` for what is no classifier.
        divergence: mean Kullback-Leibler divergence of the classes' probabilities from those in
            fp32, in nats; ``None`` for what is no classifier.
        accuracy, reference_accuracy: share of right classes; ``None`` without labels.
        max_abs_diff: of all outputs.
        likely_agreement: what to expect on other samples: the agreement if each sample's errors had
            fallen on its classes in another order, less the standard error of that.
    """

    sqnr_db: float
    noise: float
    agreement: float | None
    divergence: float | None
    accuracy: float | None
    reference_accuracy: float | None
    max_abs_diff: float
    likely_agreement: float | None = None


class Measurer:
    """Compares models with an fp32 one, which runs once.

    Args:
        reference: the fp32 ONNX.
        feeds: samples by input name.
        labels: the class of every sample, those of a batch one after another.
    """

    def __init__(
        self, reference: Path, feeds: Sequence[Mapping[str, Array]], labels: Sequence[int] | None
    ) -> None:
        self._feeds = feeds
        self._expected = self._run(reference)
        self._labels = None if labels is None else np.asarray(labels)

    def measure(self, model: Path) -> Measured:
        """Run ``model`` on the samples, without ONNX Runtime's optimisations.

        Raises:
            ExportError: it does not run.
        """
        actual = self._run(model)
        pairs = [
            (expected, found)
            for expected, found in zip(self._expected, actual, strict=True)
            if expected[0].dtype.kind == "f"
        ]
        worst = min((sqnr_db(expected, found) for expected, found in pairs), default=math.inf)
        agreement = likely = divergence = accuracy = right = None
        if len(pairs) == 1 and pairs[0][0][0].ndim == 2 and pairs[0][0][0].shape[1] > 1:
            scores, found = (np.concatenate(part).astype(np.float64) for part in pairs[0])
            before, after = scores.argmax(1), found.argmax(1)
            agreement = float((before == after).mean())
            likely = _likely_agreement(scores, found)
            divergence = _divergence(scores, found)
            if self._labels is not None and len(self._labels) == len(before):
                accuracy = float((after == self._labels).mean())
                right = float((before == self._labels).mean())
        return Measured(
            sqnr_db=worst,
            noise=0.0 if worst == math.inf else 10 ** (-worst / 10),
            agreement=agreement,
            divergence=divergence,
            accuracy=accuracy,
            reference_accuracy=right,
            max_abs_diff=max((max_abs_diff(e, f) for e, f in pairs), default=0.0),
            likely_agreement=likely,
        )

    def _run(self, model: Path) -> list[list[Array]]:
        session = open_session(model, optimize=False)
        runs = [run_session(session, feed) for feed in self._feeds]
        return [list(output) for output in zip(*runs, strict=True)]


def _divergence(expected: Array, found: Array) -> float:
    """Of the softmax of rows of scores; infinite where they are not finite."""
    if not (np.isfinite(expected).all() and np.isfinite(found).all()):
        return math.inf
    before, after = _log_softmax(expected), _log_softmax(found)
    return max(float((np.exp(before) * (before - after)).sum(1).mean()), 0.0)


def _likely_agreement(expected: Array, found: Array) -> float:
    """The share of rows whose highest score stays the highest with the row's errors shuffled, less
    its standard error. It varies far less from samples to samples than the agreement itself."""
    errors, highest = found - expected, expected.argmax(1)
    random = np.random.default_rng(0)
    stays = np.mean(
        [
            (expected + random.permuted(errors, axis=1)).argmax(1) == highest
            for _ in range(_SHUFFLES)
        ],
        axis=0,
    )
    return float(stays.mean() - stays.std() / math.sqrt(len(stays)))


def _log_softmax(scores: Array) -> Array:
    shifted = scores - scores.max(1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result
