"""Statistics of latencies: percentiles, variation, and intervals of medians and percentiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deployfold.reporting.intervals import MIN_FOR_INTERVAL

RESAMPLES = 2000
CONFIDENCE = 0.95
TAIL = (1 - CONFIDENCE) / 2

WINDOWED_FROM = 30
"""Least number of values for autocorrelations at single lags; with fewer, they are mostly noise."""


@dataclass(frozen=True)
class Interval:
    """A median and the bounds of its confidence interval; from 0 to infinity if there is none."""

    value: float
    low: float
    high: float

    @property
    def bounded(self) -> bool:
        """Whether there were enough values for an interval."""
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


def median_interval(values: ArrayLike, seed: int) -> Interval:
    """The median of positive ``values`` with a 95 % interval, from 0 to infinity for fewer than 6.

    For 6 values or more, the interval is the wider one of the bootstrap's and the sign test's. The
    interval never exceeds the range of the values.

    1. The bootstrap draws n of the n values with replacement and takes their median,
       :data:`RESAMPLES` times; see :func:`bootstrap_medians`.
    2. For few values, the bootstrap's interval contains the true median too rarely (93 % at
       n = 15). The sign test's interval is exact: the order statistics at the binomial's 2.5 %
       quantile.
    3. If successive values are correlated, both are widened by the square root of
       ``n / effective_count(values)``.

    Args:
        values: the values in the order of their measurement.

    Raises:
        ValueError: there are no values.
    """
    in_order = np.asarray(values, dtype=np.float64)
    ordered = np.sort(in_order)
    count = ordered.size
    if count == 0:
        raise ValueError("interval of no values")
    if count < MIN_FOR_INTERVAL:
        return Interval(float(np.median(ordered)), 0.0, math.inf)
    inflation = count / effective_count(in_order)
    medians = bootstrap_medians(ordered, np.random.default_rng(seed), RESAMPLES, inflation)
    low, high = np.percentile(medians, [100 * TAIL, 100 * (1 - TAIL)]).tolist()
    half_width = (count / 2 - _sign_test_rank(count)) * math.sqrt(inflation)
    rank = max(1, math.floor(count / 2 - half_width))
    return Interval(
        value=float(np.median(ordered)),
        low=min(low, float(ordered[rank - 1])),
        high=max(high, float(ordered[count - rank])),
    )


def bootstrap_medians(
    ordered: NDArray[np.float64], rng: np.random.Generator, resamples: int, inflation: float = 1.0
) -> NDArray[np.float64]:
    """Medians of ``resamples`` bootstrap resamples of the sorted values ``ordered``.

    A draw chooses the value at rank ``floor(n u)`` for a uniform u. So the k-th smallest of n draws
    is the value at rank ``floor(n u_(k))``, where the order statistic ``u_(k)`` follows
    Beta(k, n + 1 - k). Given ``u_(k)``, the next order statistic is the least of n - k uniforms
    above it (David and Nagaraja, Order Statistics, section 2.5). Drawing these one or two order
    statistics gives the same distribution as resampling, at a cost independent of n.

    Args:
        ordered: the sorted values.
        rng: the source of random numbers.
        inflation: the variance of the median, relative to that of independent values.
    """
    count = ordered.size
    rank = (count + 1) // 2
    uniform = rng.beta(rank / inflation, (count + 1 - rank) / inflation, size=resamples)
    medians = ordered[_index(uniform, count)]
    if count % 2 == 0:
        above = uniform + (1 - uniform) * rng.beta(1, count - rank, size=resamples)
        medians = (medians + ordered[_index(above, count)]) / 2
    return medians


def percentile_interval(rounds: Sequence[NDArray[np.float64]], percent: float) -> Interval:
    """A percentile of pooled samples with a 95 % interval; to infinity for too few samples.

    The interval is Woodruff's (1952) for clustered samples. The share of samples above the
    percentile has a standard error, which the binomial distribution gives. The interval reaches
    from the percentile at that share minus the error to the percentile at the share plus the error.
    The number of samples is first divided by the design effect: the variance of the count per
    round, with the rounds' autocorrelation, relative to the binomial's. For independent samples,
    the 95th percentile has a finite interval from 72 samples on.

    Args:
        rounds: the samples of each round, in the order of their measurement.
        percent: the percentile, such as 95.

    Raises:
        ValueError: there are no samples.
    """
    ordered = np.sort(np.concatenate(rounds))
    value, count = float(np.percentile(ordered, percent)), ordered.size
    share = percent / 100
    above = np.array([np.count_nonzero(one > value) for one in rounds], dtype=np.float64)
    effective = count
    if above.size > 1:
        inflation = _ar1_inflation(_lag_one_correlation(above))
        clustered = above.size * float(above.var(ddof=1)) * inflation
        effective = math.floor(count / max(1.0, clustered / (count * share * (1 - share))))
    low, high = _binomial_ranks(max(effective, 1), share)
    scale = count / max(effective, 1)
    high_index = min(math.ceil(high * scale), count) - 1
    return Interval(
        value=value,
        low=float(ordered[math.floor((low - 1) * scale)]) if low else 0.0,
        high=float(ordered[high_index]) if high <= effective else math.inf,
    )


def effective_count(values: ArrayLike) -> float:
    """The number of independent values that would determine the median as precisely as these.

    Successive values are correlated if the machine is slow for a while. The variance of a median is
    then that of independent values times ``1 + 2 Σ s_k``, where ``s_k`` is the autocorrelation at
    lag k of the values' signs about the median. For a Gaussian process under any monotone
    transformation, ``s_k = 2/pi asin(rho_k)``, and ranks give ``rho_k``. The greater of two
    estimates counts:

    1. ``rho_k = rho_1^k``, an AR(1) process. ``rho_1`` is corrected for the bias of a short series
       (Marriott and Pope, 1954).
    2. For 30 values or more, every estimated ``rho_k`` up to the lag of 5 times the sum (Sokal,
       1997). These show a slow drift under independent noise.

    Args:
        values: the values in the order of their measurement.
    """
    series = np.asarray(values, dtype=np.float64)
    count = series.size
    if count < 4:
        return float(count)
    _, group, sizes = np.unique(series, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[group]  # equal values share their mean rank
    rho = _gaussian(_lag_one_correlation(ranks))
    inflation = 1.0
    if rho > 0:
        inflation += 2 * sum(_of_signs(rho**lag) for lag in range(1, count))
    if count >= WINDOWED_FROM:
        inflation = max(inflation, _windowed_inflation(ranks))
    return count / inflation


def _windowed_inflation(ranks: NDArray[np.float64]) -> float:
    count, centred = ranks.size, ranks - ranks.mean()
    power = float(centred @ centred)
    inflation = 1.0
    if power == 0.0:
        return inflation
    for lag in range(1, count // 2 + 1):
        found = float(centred[lag:] @ centred[:-lag]) / power
        unbiased = found + (1 + max(inflation, 1.0)) / count
        inflation += 2 * _of_signs(_gaussian(min(0.99, unbiased)))
        if lag >= 5 * inflation:
            break
    return max(inflation, 1.0)


def _gaussian(rank_correlation: float) -> float:
    """The correlation of Gaussian values from that of their ranks (Pearson, 1907)."""
    return 2 * math.sin(math.pi * rank_correlation / 6)


def _of_signs(correlation: float) -> float:
    """The correlation of the signs of Gaussian values (Sheppard, 1899)."""
    return 2 / math.pi * math.asin(correlation)


def _lag_one_correlation(series: NDArray[np.float64]) -> float:
    """The correlation at lag 1, corrected for the bias of a short series; from -1 to 0.99."""
    count = series.size
    centred = series - series.mean()
    power = float(centred @ centred)
    if count < 4 or power == 0.0:
        return 0.0
    biased = float(centred[1:] @ centred[:-1]) / power
    return min(0.99, max(-1.0, (count * biased + 1) / (count - 3)))


def _ar1_inflation(rho: float) -> float:
    """The variance of an AR(1) process's mean, relative to independent values; at least 1."""
    return (1 + max(rho, 0.0)) / (1 - max(rho, 0.0))


def _sign_test_rank(count: int) -> int:
    """The greatest k with P(Binomial(count, 1/2) < k) <= 2.5 %; 0 without one."""
    return int(np.searchsorted(_binomial_cumulative(count, 0.5), TAIL, side="right"))


def _binomial_ranks(count: int, share: float) -> tuple[int, int]:
    """The ranks (from 1) between which a quantile of independent samples lies with 95 %.

    Without such a rank, the low one is 0, or the high one exceeds ``count``.
    """
    cumulative = _binomial_cumulative(count, share)
    low = int(np.searchsorted(cumulative, TAIL, side="right"))
    high = int(np.searchsorted(cumulative, 1 - TAIL, side="left")) + 1
    return low, high


def _binomial_cumulative(count: int, share: float) -> NDArray[np.float64]:
    """P(Binomial(count, share) <= k) for every k from 0 to ``count``."""
    k = np.arange(1, count + 1)
    steps = np.log(count - k + 1) - np.log(k) + math.log(share) - math.log1p(-share)
    logarithms = count * math.log1p(-share) + np.concatenate([[0.0], np.cumsum(steps)])
    cumulative: NDArray[np.float64] = np.cumsum(np.exp(logarithms))
    return cumulative


def _index(uniform: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    return np.minimum((uniform * count).astype(np.int64), count - 1)
