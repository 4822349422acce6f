"""Estimates from the outputs on some samples: how different, and what to expect on others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from deployfold.util.arrays import Array
from deployfold.util.numerics import sqnr_db

_ROTATIONS = 64
"""Most samples whose errors each sample is tried with."""

_STUDENT = (1.645, 1.524, 1.420, 0.983, 0.742)
"""The 95 % quantile of Student's t in powers of 1 / (degrees of freedom): Abramowitz and Stegun,
26.7.5, to 0.5 %; the last coefficient makes one degree of freedom exact."""


def divergence_of(expected: Array, found: Array) -> float:
    """Mean Kullback-Leibler divergence (nats) between the softmax of two arrays of scores.

    Args:
        expected, found: scores, one row a sample. The result is infinite if a score is not finite.
    """
    if not (np.isfinite(expected).all() and np.isfinite(found).all()):
        return math.inf
    before, after = _log_softmax(expected), _log_softmax(found)
    return max(float((np.exp(before) * (before - after)).sum(1).mean()), 0.0)


def likely_sqnr_db(
    expected: Sequence[Array], found: Sequence[Array], pictures: Sequence[int] = ()
) -> float:
    """The SQNR (dB) that as many other pictures keep in 19 of 20 cases.

    The noise over the signal is a ratio of two sums over pictures. Its standard error is that of
    the first order (Cochran, Sampling Techniques, 1977, section 6.4). Where pictures differ by many
    decibels, a few of them make up most of the noise, and a sample without them shows too small an
    error. Their ratios are therefore taken as log-normal too: the larger of both errors counts, and
    so does the error of the spread itself (Cox's method; Olsson, Journal of Statistics Education
    13(1), 2005).

    Args:
        expected, found: the outputs, one array a sample.
        pictures: the number of the picture of each sample; empty if each sample has its own.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf, 1e308²
        signal, noise = (
            np.array([np.square(part, dtype=np.float64).sum() for part in parts])
            for parts in (
                expected,
                [np.subtract(e, f, dtype=np.float64) for e, f in zip(expected, found, strict=True)],
            )
        )
    total = signal.sum()
    if not (np.isfinite(noise).all() and np.isfinite(total) and total > 0.0 and noise.any()):
        return sqnr_db(expected, found)
    ratio = noise.sum() / total
    error = _standard_error(noise - ratio * signal, pictures) / total / ratio
    signal, noise = (_by_picture(part, pictures) for part in (signal, noise))
    both = (signal > 0.0) & (noise > 0.0)
    each = np.log(noise[both]) - np.log(signal[both])
    count = max(len(each), 2)
    spread = float(each.var(ddof=1)) if len(each) > 1 else 0.0
    variance = max(error**2, spread / count) + spread**2 / (2.0 * (count - 1))
    deviations = _student(pictures or range(len(noise))) * math.sqrt(2.0 * variance)
    # Decibels are a logarithm.
    return float(-10.0 * (math.log10(ratio) + deviations / math.log(10.0)))


def likely_agreement(expected: Array, found: Array, pictures: Sequence[int] = ()) -> float:
    """The top-1 agreement that as many samples of as many other pictures keep in 19 of 20 cases.

    Few of the counted samples change their class, so their count varies much. Every sample is
    therefore tried with the errors of other samples too, the highest score with the error of their
    highest score, and so on. The mean over all pairs is the expected agreement, a U-statistic with
    the variance of its first-order terms (Hoeffding, 1948), taken over pictures. The changes on
    other pictures vary by as much again, and each by chance. The square root of a number of changes
    varies nearly alike for all numbers (Bartlett, 1936), so the margin is taken there.

    Args:
        expected, found: scores, one row a sample.
        pictures: the number of the picture of each sample; empty if each sample has its own.
    """
    count = len(expected)
    order = np.argsort(-expected, axis=1, kind="stable")
    scores = np.take_along_axis(expected, order, 1)
    errors = np.take_along_axis(found - expected, order, 1)
    tries = min(count, _ROTATIONS)
    stays, spared = np.zeros(count), np.zeros(count)
    for turn in range(tries):
        others = np.roll(np.arange(count), turn * count // tries)
        kept = (scores + errors[others]).argmax(1) == 0
        stays += kept
        spared[others] += kept
    stays, spared = stays / tries, spared / tries
    changed = 1.0 - stays.mean()
    error = _standard_error(stays + spared - 2.0 * stays.mean(), pictures) / count
    variance = 2.0 * error**2 + (stays * (1.0 - stays)).mean() / count
    deviation = math.sqrt(variance / changed if changed > 0.0 else 1.0 / count) / 2.0
    reach = _student(pictures or range(count)) * deviation
    return float(max(1.0 - (math.sqrt(changed) + reach) ** 2, 0.0))


def enough_pictures(count: int, measured: float, likely: float, limit: float) -> int | None:
    """About how many pictures would let the likely figure hold a limit that the measured one holds.

    The margin between both falls with the square root of the number of pictures. ``None`` where the
    measured figure is so near to the limit that a hundred times as many are not enough.
    """
    times = ((measured - likely) / (measured - limit)) ** 2 if measured > limit else math.inf
    return math.ceil(count * times) if times <= 100.0 else None


def _standard_error(residuals: Array, pictures: Sequence[int]) -> float:
    """The standard error of a sum with these residuals, the samples of a picture taken together."""
    residuals = _by_picture(residuals, pictures)
    count = len(residuals)
    return math.sqrt(np.square(residuals).sum() * count / (count - 1)) if count > 1 else 0.0


def _by_picture(values: Array, pictures: Sequence[int]) -> Array:
    """The sum over the samples of each picture; without pictures, the values of the samples."""
    if not pictures:
        return values
    sums: Array = np.bincount(np.unique(pictures, return_inverse=True)[1], values)
    return sums


def _student(pictures: Sequence[int]) -> float:
    """The 95 % quantile of Student's t for so many different pictures."""
    freedom = max(len(set(pictures)) - 1, 1)
    return math.fsum(part / freedom**power for power, part in enumerate(_STUDENT))


def _log_softmax(scores: Array) -> Array:
    shifted = scores - scores.max(1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result
