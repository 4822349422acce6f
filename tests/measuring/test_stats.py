"""Percentiles and intervals against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployfold.measuring.stats import (
    _sign_test_rank,
    bootstrap_medians,
    coefficient_of_variation,
    median_interval,
    percentiles,
)

samples = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=200)
enough = st.lists(st.floats(1e-3, 1e6), min_size=6, max_size=200)


@given(samples)
def test_percentiles_are_numpys_of_the_pooled_samples(values: list[float]) -> None:
    median, p90, p95, p99 = percentiles(values)
    assert median == pytest.approx(np.median(values))
    assert min(values) <= median <= p90 <= p95 <= p99 <= max(values)
    assert p95 == pytest.approx(np.percentile(values, 95))


@given(enough, st.floats(0.01, 100), st.integers(0, 5))
def test_an_interval_scales_with_its_values_and_holds_the_median(
    values: list[float], scale: float, seed: int
) -> None:
    interval = median_interval(values, seed)
    assert interval.low <= interval.value <= interval.high
    assert interval.value == pytest.approx(np.median(values))
    assert interval.low >= min(values) * (1 - 1e-12)
    assert interval.high <= max(values) * (1 + 1e-12)
    scaled = median_interval(np.asarray(values) * scale, seed)
    assert (scaled.low, scaled.high) == pytest.approx((interval.low * scale, interval.high * scale))


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(0).lognormal(size=40)
    assert median_interval(values, 3) == median_interval(values, 3)


@pytest.mark.parametrize("count", [1, 2, 7, 10, 33])
def test_bootstrap_medians_are_distributed_as_those_of_real_resampling(count: int) -> None:
    rng = np.random.default_rng(count)
    values = np.sort(rng.lognormal(size=count))
    fast = bootstrap_medians(values, rng, 100_000)
    naive = np.median(rng.choice(values, (100_000, count)), axis=1)
    grid = np.unique(np.concatenate([values, (values[1:] + values[:-1]) / 2]))
    tolerance = 1e-9  # means of two values can round either way
    difference = [np.mean(fast <= x + tolerance) - np.mean(naive <= x + tolerance) for x in grid]
    assert np.abs(difference).max() < 0.01  # Kolmogorov-Smirnov at p = 1e-4 is 0.0099


@pytest.mark.parametrize(("count", "rank"), [(1, 0), (5, 0), (6, 1), (9, 2), (10, 2), (15, 4)])
def test_the_sign_test_uses_the_tabulated_ranks(count: int, rank: int) -> None:
    # Ranks of the 95 % interval of a median, e.g. Conover, Practical Nonparametric Statistics.
    assert _sign_test_rank(count) == rank


@pytest.mark.parametrize("count", range(1, 6))
def test_fewer_than_six_values_have_no_interval(count: int) -> None:
    interval = median_interval(np.full(count, 2.0), 0)
    assert (interval.value, interval.low, interval.high) == (2.0, 0.0, np.inf)
    assert not interval.bounded
    assert interval.relative_half_width == np.inf
    assert median_interval(np.full(6, 2.0), 0).bounded


def test_an_interval_is_never_narrower_than_the_sign_tests() -> None:
    for seed in range(20):
        values = np.sort(np.random.default_rng(seed).lognormal(size=15))
        interval = median_interval(values, seed)
        assert interval.low <= values[3]
        assert interval.high >= values[11]


def test_95_of_100_intervals_hold_the_true_median() -> None:
    rng = np.random.default_rng(1)
    for count in (10, 15, 40):
        draws = rng.lognormal(sigma=0.3, size=(600, count))  # its true median is 1
        intervals = [median_interval(row, seed) for seed, row in enumerate(draws)]
        held = np.mean([interval.low <= 1 <= interval.high for interval in intervals])
        assert held >= 0.935  # 0.95 less 1.7 standard errors


def test_the_coefficient_of_variation() -> None:
    assert coefficient_of_variation([9.0, 11.0]) == pytest.approx(2**0.5 / 10)
    assert coefficient_of_variation([5.0]) == 0.0


def test_no_values_are_an_error() -> None:
    with pytest.raises(ValueError, match="no samples"):
        percentiles([])
    with pytest.raises(ValueError, match="no values"):
        median_interval([], 0)
