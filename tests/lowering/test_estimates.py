"""What the outputs on some samples let expect on others."""

from __future__ import annotations

import numpy as np
import pytest

from deployfold.lowering.estimates import likely_sqnr_db
from deployfold.util.numerics import sqnr_db


def outputs(random: np.random.Generator, count: int) -> tuple[list, list]:
    """Outputs with a noise that differs from picture to picture."""
    expected = [random.standard_normal((1, 50)).astype("f4") for _ in range(count)]
    sizes = 0.1 * random.lognormal(0.0, 0.2, count)
    found = [e + s * random.standard_normal(e.shape) for e, s in zip(expected, sizes, strict=True)]
    return expected, found


@pytest.mark.parametrize("count", [5, 16])
def test_other_pictures_keep_the_likely_sqnr(count):
    random = np.random.default_rng(0)
    pairs = [(outputs(random, count), outputs(random, count)) for _ in range(120)]
    kept = np.mean([sqnr_db(*other) >= likely_sqnr_db(*seen) for seen, other in pairs])
    measured = np.mean([sqnr_db(*other) >= sqnr_db(*seen) for seen, other in pairs])
    assert 0.85 <= kept <= 0.99  # of 120; without the spread, half
    assert 0.4 <= measured <= 0.6


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
