"""Estimates from the outputs on some samples: how different, and what to expect on others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from deployfold.exporting.session import Array
from deployfold.util.numerics import sqnr_db

_SHUFFLES = 32

_DEVIATIONS = 1.645 * math.sqrt(2.0)
"""Standard errors that 19 of 20 pairs of sets of pictures differ by at most, in one direction."""

_FEW = 1.2
"""``1 + _FEW / (n - 1)`` is about how much further Student's t reaches for ``n`` pictures."""


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
    the first order (Cochran, Sampling Techniques, 1977, section 6.4).

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
    if pictures:
        group = np.unique(pictures, return_inverse=True)[1]
        signal, noise = np.bincount(group, signal), np.bincount(group, noise)
    total = signal.sum()
    if not (np.isfinite(noise).all() and np.isfinite(total) and total > 0.0 and noise.any()):
        return sqnr_db(expected, found)
    ratio, count = noise.sum() / total, len(noise)
    if count < 2:
        return sqnr_db(expected, found)
    error = math.sqrt(np.square(noise - ratio * signal).sum() * count / (count - 1)) / total
    deviations = _DEVIATIONS * (1.0 + _FEW / (count - 1)) * error / ratio
    return float(
        -10.0 * (math.log10(ratio) + deviations / math.log(10.0))
    )  # decibels are a logarithm


def likely_agreement(expected: Array, found: Array) -> float:
    """The share of rows whose top class survives the row's errors in shuffled order.

    The result is less one standard error. The estimate varies far less from one set of samples to
    another than the agreement itself does.
    """
    errors, highest = found - expected, expected.argmax(1)
    random = np.random.default_rng(0)
    stays = np.mean(
        [
            (expected + random.permuted(errors, axis=1)).argmax(1) == highest
            for _ in range(_SHUFFLES)
        ],
        axis=0,
    )
    return float(stays.mean() - stays.std() / math.sqrt(len(stays)))


def _log_softmax(scores: Array) -> Array:
    shifted = scores - scores.max(1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result
