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
    effective_count,
    median_interval,
    percentile_interval,
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
def test_an_interval_scales_with_its_values_and_contains_the_median(
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


def autocorrelated(rng: np.random.Generator, runs: int, count: int, rho: float) -> np.ndarray:
    """Runs of an autoregressive process with the true median 1: slow for a while, then fast."""
    shocks = rng.normal(size=(runs, count + 100))
    for index in range(1, shocks.shape[1]):
        shocks[:, index] *= (1 - rho**2) ** 0.5
        shocks[:, index] += rho * shocks[:, index - 1]
    return np.exp(0.1 * shocks[:, 100:])


@pytest.mark.parametrize(("rho", "least"), [(0.0, 0.94), (0.3, 0.94), (0.6, 0.93)])
def test_intervals_of_autocorrelated_rounds_hold_the_true_median(rho: float, least: float) -> None:
    """Without the correction, 76 of 100 intervals held it at a correlation of 0.6."""
    draws = autocorrelated(np.random.default_rng(2), 300, 60, rho)
    intervals = [median_interval(row, seed) for seed, row in enumerate(draws)]
    assert np.mean([one.low <= 1 <= one.high for one in intervals]) >= least


def test_the_effective_count() -> None:
    rng = np.random.default_rng(0)
    counts = [effective_count(rng.normal(size=200)) for _ in range(50)]
    assert np.mean(counts) > 160
    # A sign's autocorrelations 2/pi asin(0.6^k) have the sum 1.02, so that 200 are worth 66.
    slow = [effective_count(row) for row in autocorrelated(rng, 50, 200, 0.6)]
    assert 50 < np.mean(slow) < 75
    assert effective_count(np.full(40, 2.0)) == 40.0, "equal values do not tell of a trend"
    assert effective_count(np.arange(40.0)) < 4, "a trend does"


@given(enough, st.floats(0.1, 3))
def test_the_effective_count_is_of_the_order_alone(values: list[float], power: float) -> None:
    grown = np.asarray(values) ** power
    if len(set(grown.tolist())) == len(set(values)):  # and no two became equal
        assert effective_count(grown) == pytest.approx(effective_count(values))
    assert 0 < effective_count(values) <= len(values)


def test_a_percentile_of_95_is_bounded_from_72_independent_samples_on() -> None:
    draws = np.random.default_rng(0).lognormal(size=72)
    assert percentile_interval([draws[:71]], 95).high == np.inf
    bounded = percentile_interval([draws], 95)
    assert bounded.low < bounded.value < bounded.high == draws.max()


def test_a_percentiles_interval_contains_the_true_one() -> None:
    rng = np.random.default_rng(1)
    true = np.exp(0.2 * 1.6448536)
    for rounds, calls in ((100, 1), (40, 5)):
        draws = np.exp(0.2 * rng.normal(size=(300, rounds, calls)))
        held = [percentile_interval(list(one), 95) for one in draws]
        assert np.mean([one.low <= true <= one.high for one in held]) >= 0.93


def test_calls_of_one_round_that_are_alike_count_as_few() -> None:
    rng = np.random.default_rng(0)
    alone = rng.lognormal(sigma=0.2, size=(100, 1))
    apart = percentile_interval(list(alone), 95)
    alike = percentile_interval([np.repeat(one, 10) for one in alone], 95)
    assert alike.low == pytest.approx(apart.low, rel=0.05)
    assert alike.high == pytest.approx(apart.high, rel=0.05)


def test_the_coefficient_of_variation() -> None:
    assert coefficient_of_variation([9.0, 11.0]) == pytest.approx(2**0.5 / 10)
    assert coefficient_of_variation([5.0]) == 0.0


def test_no_values_are_an_error() -> None:
    with pytest.raises(ValueError, match="no samples"):
        percentiles([])
    with pytest.raises(ValueError, match="no values"):
        median_interval([], 0)
