"""What the outputs on some samples let expect on others."""

from __future__ import annotations

import numpy as np
import pytest

from deployfold.lowering.estimates import enough_pictures, likely_agreement, likely_sqnr_db
from deployfold.util.numerics import sqnr_db


def outputs(random: np.random.Generator, count: int, spread: float = 0.2) -> tuple[list, list]:
    """Outputs with a noise that differs from picture to picture, by so many nepers."""
    expected = [random.standard_normal((1, 50)).astype("f4") for _ in range(count)]
    sizes = 0.1 * random.lognormal(0.0, spread, count)
    found = [e + s * random.standard_normal(e.shape) for e, s in zip(expected, sizes, strict=True)]
    return expected, found


@pytest.mark.parametrize(("count", "spread"), [(5, 0.2), (16, 0.9)])
def test_other_pictures_keep_the_likely_sqnr(count, spread):
    """A standard error of the first order alone keeps 0.84 of those that differ by 8 dB (0.9)."""
    random = np.random.default_rng(0)
    pairs = [[outputs(random, count, spread) for _ in range(2)] for _ in range(120)]
    kept = np.mean([sqnr_db(*other) >= likely_sqnr_db(*seen) for seen, other in pairs])
    measured = np.mean([sqnr_db(*other) >= sqnr_db(*seen) for seen, other in pairs])
    assert 0.89 <= kept <= 0.99  # of 120; without a margin, half
    assert 0.4 <= measured <= 0.6


def nested(random: np.random.Generator) -> np.ndarray:
    """The noise of models with ever fewer of twelve noisy layers, on each of five pictures."""
    layers = 1e-3 * random.lognormal(0.0, 1.2, (5, 1)) * random.lognormal(0.0, 0.6, (5, 12))
    return np.stack([layers[:, first:].sum(1) for first in range(0, 12, 2)])


def test_a_search_among_six_models_needs_no_wider_margin():
    """The guard takes the first model that surely holds a limit. The errors of nested models are
    alike, so that other pictures miss a promised limit in about one case of 20, not of four."""
    random = np.random.default_rng(0)
    limits, trials = np.arange(14, 30), 150
    missed = np.zeros((2, len(limits)))
    for _ in range(trials):
        seen, other = nested(random), nested(random)
        measured, found = (-10 * np.log10(noise.mean(1)) for noise in (seen, other))
        likely = [likely_sqnr_db(np.ones((5, 1)), 1 + np.sqrt(one[:, None])) for one in seen]
        for row, figures in enumerate((np.array(likely), measured)):
            holds = figures[:, None] >= limits
            missed[row] += holds.any(0) & (found[holds.argmax(0)] < limits)
    assert missed[0].max() / trials <= 0.06
    assert missed[1].max() / trials >= 0.2


def test_several_samples_of_a_picture_tell_no_more_than_one():
    expected, found = outputs(np.random.default_rng(0), 8)
    once = likely_sqnr_db(expected, found)
    thrice = likely_sqnr_db(expected * 3, found * 3, [*range(8)] * 3)
    assert thrice == pytest.approx(once)
    assert likely_sqnr_db(expected * 3, found * 3) > once


def test_a_single_picture_and_equal_outputs_have_no_spread():
    expected, found = outputs(np.random.default_rng(0), 2)
    assert likely_sqnr_db(expected, found, [7, 7]) == sqnr_db(expected, found)
    assert likely_sqnr_db(expected, expected) == np.inf


def test_pictures_without_noise_or_without_a_signal_count_in_the_ratio_alone():
    expected, found = outputs(np.random.default_rng(0), 3)
    expected += [np.zeros((1, 50), "f4"), expected[0]]
    found += [np.full((1, 50), 0.01, "f4"), expected[0]]
    assert 10.0 < likely_sqnr_db(expected, found) < sqnr_db(expected, found)
    assert np.isfinite(likely_sqnr_db(expected[3:], found[3:]))


def scores(
    random: np.random.Generator, pictures: int, each: int, noise: float
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Scores whose errors differ from picture to picture, and grow with the score."""
    expected = 2.0 * random.standard_normal((pictures * each, 20))
    picture = np.repeat(np.arange(pictures), each)
    sizes = noise * random.lognormal(0.0, 0.5, pictures)[picture, None] * (2.0 + abs(expected))
    return expected, expected + sizes * random.standard_normal(expected.shape), picture.tolist()


def agreement(expected: np.ndarray, found: np.ndarray) -> float:
    return float((expected.argmax(1) == found.argmax(1)).mean())


@pytest.mark.parametrize("noise", [0.003, 0.02])
@pytest.mark.parametrize(("pictures", "each"), [(3, 20), (5, 12), (60, 1)])
def test_other_pictures_keep_the_likely_agreement(pictures, each, noise):
    random = np.random.default_rng(0)
    pairs = [[scores(random, pictures, each, noise) for _ in range(2)] for _ in range(100)]
    kept = np.mean([agreement(*other[:2]) >= likely_agreement(*seen) for seen, other in pairs])
    measured = np.mean([agreement(*other[:2]) > agreement(*seen[:2]) for seen, other in pairs])
    assert kept >= 0.95
    assert measured <= 0.5


def test_two_pictures_promise_no_less_than_nothing():
    assert likely_agreement(*scores(np.random.default_rng(0), 2, 5, 0.3)) == 0.0


def test_many_pictures_need_little_margin():
    random = np.random.default_rng(0)
    drawn = [scores(random, 600, 1, 0.01) for _ in range(20)]
    gaps = [agreement(*one[:2]) - likely_agreement(*one) for one in drawn]
    assert 0.005 < np.mean(gaps) < 0.025


def test_errors_that_change_nothing_leave_the_chance_of_so_few_samples():
    given = np.array([[0.0, 1.0, 5.0], [7.0, 0.0, 1.0]] * 50)
    likely = likely_agreement(given, given + 0.5)
    assert 1.0 - likely == pytest.approx(1.66**2 / 400, rel=0.01)  # Student's t for 99: 1.66
    assert likely_agreement(given[:10], given[:10]) < likely


def test_a_quarter_of_the_margin_takes_sixteen_times_the_pictures():
    assert enough_pictures(5, 0.98, 0.94, 0.97) == 80
    assert enough_pictures(5, 0.97, 0.94, 0.97) is None
