"""The measurements of a quantised classifier."""

from __future__ import annotations

import numpy as np

from deployfold.lowering.estimates import likely_agreement


def test_the_likely_agreement_varies_less_than_the_agreement():
    """Over 100 draws of 200 samples with the same errors, the likely agreement is nearer to the
    truth.
    """
    random = np.random.default_rng(0)

    def draw(samples: int) -> tuple[float, float]:
        scores = random.normal(size=(samples, 50))
        found = scores + random.normal(scale=0.05, size=scores.shape)
        counted = float((scores.argmax(1) == found.argmax(1)).mean())
        return counted, likely_agreement(scores, found)

    truth, _ = draw(100_000)
    counted, likely = np.array([draw(200) for _ in range(100)]).T
    assert 0.93 < truth < 0.97
    assert likely.std() < 0.7 * counted.std()
    assert truth - 0.025 < likely.mean() < truth - 0.003, "less one standard error"


def test_errors_that_change_nothing_likely_change_nothing():
    scores = np.array([[0.0, 1.0, 5.0], [7.0, 0.0, 1.0]])
    assert likely_agreement(scores, scores + 0.5) == 1.0
