"""The statistics of a latency: percentiles, spread, and the interval of a median."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
CONFIDENCE = 0.95
TAIL = (1 - CONFIDENCE) / 2
MIN_FOR_INTERVAL = 6
"""Fewer values have no 95 % interval of their median: all of n lie on one side of the true median
with probability 2 / 2^n, which is above 5 % for n < 6, so not even least to greatest is enough."""


WINDOWED_FROM = 30
"""Of fewer values, the autocorrelations at single lags are mostly noise."""


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


def calls_per_round(call_seconds: float, max_seconds: float, at_most: int) -> int:
    """The calls in a round with which ``MIN_FOR_INTERVAL`` rounds take ``max_seconds``; 1 at least.

    Args:
        call_seconds: how long one call takes.
        max_seconds: the time for all rounds.
        at_most: the calls in a round of a fast model.
    """
    affordable = max_seconds / (MIN_FOR_INTERVAL * call_seconds) if call_seconds > 0 else at_most
    return max(1, min(at_most, int(affordable)))


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

    Of 6 or more it is the wider one of the bootstrap's and the sign test's, and reaches from the
    least to the greatest value at most.

    1. The bootstrap draws n of the n values with replacement and takes their median, ``resamples``
       times; see :func:`bootstrap_medians`.
    2. Of few values that interval holds the true median too seldom (93 % at n = 15). The sign
       test's is exact: the order statistics at the binomial's 2.5 % quantile.
    3. Both are widened where values that follow each other are alike, by the square root of
       ``n / effective_count(values)``.

    Args:
        values: in the order in which they were measured.

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
    medians = bootstrap_medians(ordered, np.random.default_rng(seed), resamples, inflation)
    low, high = np.percentile(medians, [100 * TAIL, 100 * (1 - TAIL)]).tolist()
    half_width = (count / 2 - _sign_test_rank(count)) * math.sqrt(inflation)
    rank = max(1, math.floor(count / 2 - half_width))
    return Interval(
        value=float(np.median(ordered)),
        low=min(low, float(ordered[rank - 1])),
        high=max(high, float(ordered[count - rank])),
    )


def bootstrap_medians(
    ordered: NDArray[np.float64],
    rng: np.random.Generator,
    resamples: int,
    inflation: float = 1.0,
) -> NDArray[np.float64]:
    """Medians of ``resamples`` bootstrap resamples of the sorted values ``ordered``.

    Drawing a value is choosing ``floor(n u)`` for a uniform u, so the k-th smallest of n draws is
    the value at rank ``floor(n u_(k))``, where the order statistic ``u_(k)`` follows
    Beta(k, n + 1 - k), and given ``u_(k)`` the next one is the least of n - k uniforms above it
    (David and Nagaraja, Order Statistics, section 2.5). Drawing those one or two order statistics
    is the same distribution as resampling, at a cost that does not grow with n.

    Args:
        inflation: how many times the variance of a median of independent values.
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

    The interval is Woodruff's (1952), for samples in clusters: the share of samples above the
    percentile has a standard error, and the interval reaches from the percentile of that share less
    the error to that of the share plus the error. The binomial distribution gives the error. The
    number of samples is divided by the design effect first: how many times the binomial's is the
    variance of the count per round, with the rounds' autocorrelation. The 95th percentile of
    independent samples is bounded from 72 on.

    Args:
        rounds: the samples of each round, in the order in which they were measured.

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
    """How many independent values would tell the median as well as these, in their order.

    Values that follow each other are alike where a machine is slow for a while. The variance of a
    median is then that of independent values times ``1 + 2 Σ s_k``, where ``s_k`` is the
    autocorrelation of the values' signs about the median at lag k. For a Gaussian process under any
    monotone transformation, ``s_k = 2/pi asin(rho_k)``, and ranks give ``rho_k``. Two estimates are
    made, and the greater sum counts:

    1. ``rho_k = rho_1^k``, a process that forgets at a constant rate. ``rho_1`` is corrected for
       the bias of a short series (Marriott and Pope, 1954).
    2. Of 30 values or more, every ``rho_k`` as it was found, to the lag that is 5 times the sum
       (Sokal, 1997). A slow drift under independent noise shows in these.
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
    """Correlation of neighbours, corrected for the bias of a short series; between -1 and 0.99."""
    count = series.size
    centred = series - series.mean()
    power = float(centred @ centred)
    if count < 4 or power == 0.0:
        return 0.0
    biased = float(centred[1:] @ centred[:-1]) / power
    return min(0.99, max(-1.0, (count * biased + 1) / (count - 3)))


def _ar1_inflation(rho: float) -> float:
    """The variance of a mean over that of independent values; at least 1."""
    return (1 + max(rho, 0.0)) / (1 - max(rho, 0.0))


def _sign_test_rank(count: int) -> int:
    """The greatest k with P(Binomial(count, 1/2) < k) <= 2.5 %; 0 where there is none."""
    return int(np.searchsorted(_binomial_cumulative(count, 0.5), TAIL, side="right"))


def _binomial_ranks(count: int, share: float) -> tuple[int, int]:
    """Ranks (from 1) between which a quantile lies with 95 % of independent samples.

    The low one is 0, or the high one above ``count``, where there is no such rank.
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
