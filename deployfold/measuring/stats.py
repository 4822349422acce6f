"""The statistics of a latency: percentiles, spread, and the interval of a median."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
CONFIDENCE = 0.95
MIN_FOR_INTERVAL = 6
"""Fewer values have no 95 % interval of their median: all of n lie on one side of the true median
with probability 2 / 2^n, which is above 5 % for n < 6, so not even least to greatest is enough."""


@dataclass(frozen=True)
class Interval:
    """A median and the bounds of its confidence interval; from 0 to infinity if there is none."""

    value: float
    low: float
    high: float

    @property
    def bounded(self) -> bool:
        """There were values enough for an interval."""
        return math.isfinite(self.high)

    @property
    def relative_half_width(self) -> float:
        """The greater distance of a bound from the value, relative to the value."""
        if self.value == 0:
            return math.inf
        return max(self.high - self.value, self.value - self.low) / abs(self.value)


def percentiles(samples: ArrayLike) -> tuple[float, float, float, float]:
    """Median, 90th, 95th and 99th percentile of raw samples, linearly interpolated.

    Raises:
        ValueError: there are no samples.
    """
    values = np.asarray(samples, dtype=np.float64)
    if values.size == 0:
        raise ValueError("percentiles of no samples")
    median, p90, p95, p99 = np.percentile(values, [50, 90, 95, 99]).tolist()
    return median, p90, p95, p99


def coefficient_of_variation(samples: ArrayLike) -> float:
    """Standard deviation over mean (n - 1 in the denominator); 0 for a single sample."""
    values = np.asarray(samples, dtype=np.float64)
    if values.size < 2:
        return 0.0
    mean = float(values.mean())
    return float(values.std(ddof=1)) / mean if mean else math.inf


def median_interval(values: ArrayLike, seed: int, resamples: int = RESAMPLES) -> Interval:
    """The median of positive ``values`` with a 95 % interval, from 0 to infinity for fewer than 6.

    Of 6 or more it is the bootstrap's, and never narrower than the sign test's.

    The bootstrap draws n of the n values with replacement and takes their median, ``resamples``
    times. Drawing is choosing ``floor(n u)`` for n uniform u, so the k-th smallest draw is the
    value at rank ``floor(n u_(k))``, where the order statistic ``u_(k)`` follows
    Beta(k, n + 1 - k), and given ``u_(k)`` the next one is the least of n - k uniforms above it
    (David and Nagaraja, Order Statistics, section 2.5). Drawing those one or two order statistics
    is the same distribution as resampling, at a cost that does not grow with n.

    Of few values that interval holds the true median too seldom (93 % at n = 15), so it is widened
    to the exact one of the sign test: the order statistics at the binomial's 2.5 % quantile.

    Raises:
        ValueError: there are no values.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if ordered.size == 0:
        raise ValueError("interval of no values")
    if ordered.size < MIN_FOR_INTERVAL:
        return Interval(float(np.median(ordered)), 0.0, math.inf)
    medians = bootstrap_medians(ordered, np.random.default_rng(seed), resamples)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.percentile(medians, [100 * tail, 100 * (1 - tail)]).tolist()
    rank = _sign_test_rank(ordered.size)
    return Interval(
        value=float(np.median(ordered)),
        low=min(low, float(ordered[rank - 1])),
        high=max(high, float(ordered[ordered.size - rank])),
    )


def bootstrap_medians(
    ordered: NDArray[np.float64], rng: np.random.Generator, resamples: int
) -> NDArray[np.float64]:
    """Medians of ``resamples`` bootstrap resamples of the sorted values ``ordered``."""
    count = ordered.size
    rank = (count + 1) // 2
    uniform = rng.beta(rank, count + 1 - rank, size=resamples)
    medians = ordered[_index(uniform, count)]
    if count % 2 == 0:
        above = uniform + (1 - uniform) * rng.beta(1, count - rank, size=resamples)
        medians = (medians + ordered[_index(above, count)]) / 2
    return medians


def _sign_test_rank(count: int) -> int:
    """The greatest k with P(Binomial(count, 1/2) < k) <= 2.5 %; 0 where there is none."""
    tail = (1 - CONFIDENCE) / 2
    cumulative, whole = 0.0, math.lgamma(count + 1) - count * math.log(2)
    for k in range(count // 2 + 1):
        cumulative += math.exp(whole - math.lgamma(k + 1) - math.lgamma(count - k + 1))
        if cumulative > tail:
            return k
    return 0


def _index(uniform: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    return np.minimum((uniform * count).astype(np.int64), count - 1)
