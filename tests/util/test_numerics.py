"""Differences of numbers at every scale that float64 has."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from deployfold.util.numerics import RunningDifference, max_abs_diff, sqnr_db

FLOATS = arrays.arrays(
    np.float32,
    st.integers(1, 20),
    elements=st.floats(-1e6, 1e6, width=32).filter(lambda x: x == 0 or abs(x) > 1e-6),
)


def test_known_values() -> None:
    # signal 100, noise 1: 20 dB
    assert sqnr_db(np.array([10.0, 0.0]), np.array([10.0, 1.0])) == pytest.approx(20.0)
    assert max_abs_diff(np.array([1.0, -2.0]), np.array([1.5, -4.0])) == 2.0


def test_arrays_are_pooled() -> None:
    reference = [np.array([10.0]), np.array([0.0])]
    assert sqnr_db(reference, [np.array([10.0]), np.array([1.0])]) == pytest.approx(20.0)
    assert max_abs_diff(reference, [np.array([10.0]), np.array([-1.0])]) == 1.0


def test_the_edges() -> None:
    nan, inf = math.nan, math.inf
    same = np.array([nan, inf, -inf, 1.0])
    assert sqnr_db(same, same.copy()) == inf
    assert max_abs_diff(same, same.copy()) == 0.0
    assert sqnr_db(np.array([1.0, 2.0]), np.array([1.0, nan])) == -inf
    assert max_abs_diff(np.array([1.0]), np.array([nan])) == inf
    assert max_abs_diff(np.array([inf]), np.array([-inf])) == inf
    assert sqnr_db(np.zeros(2), np.ones(2)) == -inf
    assert sqnr_db(np.zeros(2), np.zeros(2)) == inf
    assert max_abs_diff(np.zeros(0), np.zeros(0)) == 0.0
    assert sqnr_db([], []) == inf


def test_float16_does_not_overflow_in_the_sum() -> None:
    reference = np.full(10, 60000, np.float16)
    assert sqnr_db(reference, reference * np.float16(0.5)) == pytest.approx(6.0206, abs=1e-3)


def test_outputs_that_cannot_be_compared_are_an_error() -> None:
    with pytest.raises(ValueError, match="arrays"):
        sqnr_db([np.ones(1)], [])
    with pytest.raises(ValueError, match="shape"):
        max_abs_diff(np.ones(1), np.ones((1, 1)))


@given(FLOATS, st.floats(1e-3, 1e3))
def test_sqnr_does_not_depend_on_the_unit(reference: np.ndarray, unit: float) -> None:
    test = reference.astype(np.float64) + 1.0
    before, after = sqnr_db(reference, test), sqnr_db(reference.astype(float) * unit, test * unit)
    assert before == pytest.approx(after, abs=1e-6) or before == after


@given(FLOATS)
def test_ten_times_the_noise_is_20_db(reference: np.ndarray) -> None:
    values = reference.astype(np.float64)
    one, ten = sqnr_db(values, values + 1.0), sqnr_db(values, values + 10.0)
    assert one - ten == pytest.approx(20.0, abs=1e-6) or one == ten == -math.inf


@given(FLOATS)
def test_the_difference_is_symmetric(reference: np.ndarray) -> None:
    other = reference[::-1].copy()
    assert max_abs_diff(reference, other) == max_abs_diff(other, reference)


finite = st.floats(allow_nan=False, allow_infinity=False)
pairs = st.lists(st.tuples(finite, finite), min_size=1, max_size=12)


def exact_sqnr_db(pairs: list[tuple[float, float]]) -> float:
    """SQNR by exact fractions and the logarithm of integers."""
    exact = [(Fraction(first), Fraction(second)) for first, second in pairs]
    signal = sum((first**2 for first, _ in exact), Fraction())
    noise = sum(((first - second) ** 2 for first, second in exact), Fraction())
    if not noise:
        return math.inf
    if not signal:
        return -math.inf
    quotient = signal / noise
    return 10 * (math.log10(quotient.numerator) - math.log10(quotient.denominator))


@given(pairs)
@example([(6e-157, 379247.0)])
@example([(1.7e308, -1.7e308)])
@example([(5e-324, 0.0), (0.0, 5e-324)])
@example([(1e-200, 2e-200), (1e200, 1e200)])
@example([(1e300, 1.0), (1e-300, 3e-300)])
def test_sqnr_is_exact_at_every_scale(pairs: list[tuple[float, float]]) -> None:
    first, second = np.array(pairs).T
    expected = pytest.approx(exact_sqnr_db(pairs), abs=1e-9, rel=1e-12)
    assert sqnr_db(first, second) == expected
    running = RunningDifference()
    for pair in pairs:
        running.add(np.array(pair[:1]), np.array(pair[1:]))
    assert running.sqnr_db == expected
    assert running.max_abs_diff == max_abs_diff(first, second)
    assert math.isnan(running.cosine) or -1.0 <= running.cosine <= 1.0


@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=12))
def test_no_number_raises(pairs: list[tuple[float, float]]) -> None:
    first, second = np.array(pairs).reshape(-1, 2).T
    running = RunningDifference()
    running.add(first, second)
    assert running.sqnr_db == pytest.approx(sqnr_db(first, second), abs=1e-9, rel=1e-12)
    assert not math.isnan(running.sqnr_db)
    assert running.max_abs_diff >= 0.0


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1.0, 1e160, 1e300])
def test_the_cosine_does_not_depend_on_the_scale(scale: float) -> None:
    running = RunningDifference()
    running.add(np.array([3.0, 4.0]) * scale, np.array([4.0, 3.0]) * scale)
    assert running.cosine == pytest.approx(24 / 25)
