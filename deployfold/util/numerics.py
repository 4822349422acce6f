"""Distances between two sets of arrays. Needs numpy only, so that every stage can import it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray


def sqnr_db(
    reference: NDArray[np.generic] | Sequence[NDArray[np.generic]],
    test: NDArray[np.generic] | Sequence[NDArray[np.generic]],
) -> float:
    """Signal-to-quantisation-noise ratio in decibels, pooled over all arrays.

    ``10 log10(Σ reference² / Σ (reference - test)²)``, summed in float64 over every element of
    every array. Elements that are the same NaN or infinity on both sides are left out.

    Args:
        reference: one array, or a sequence of arrays.
        test: the same number of arrays, of the same shapes.

    Returns:
        Decibels: ``inf`` where nothing differs, ``-inf`` where one side is non-finite and the other
        is not, or where the reference is all zero and ``test`` is not.

    Raises:
        ValueError: the numbers of arrays or their shapes differ.
    """
    signal = noise = 0.0
    for expected, actual in _pairs(reference, test):
        if np.isfinite(expected).all() and np.isfinite(actual).all():  # as nearly always
            signal += float(np.square(expected).sum())
            noise += float(np.square(expected - actual).sum())
            continue
        same = _same(expected, actual)
        if not np.isfinite(expected[~same]).all() or not np.isfinite(actual[~same]).all():
            return -math.inf
        finite = np.isfinite(expected)
        signal += float(np.square(expected[finite]).sum())
        noise += float(np.square(expected[~same] - actual[~same]).sum())
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf


def max_abs_diff(
    reference: NDArray[np.generic] | Sequence[NDArray[np.generic]],
    test: NDArray[np.generic] | Sequence[NDArray[np.generic]],
) -> float:
    """The largest ``|reference - test|`` over all arrays, in the arrays' own unit, in float64.

    Two NaN or two equal infinities in one place count as no difference; a NaN or infinity on one
    side only counts as ``inf``. Empty arrays give 0.

    Raises:
        ValueError: the numbers of arrays or their shapes differ.
    """
    largest = 0.0
    for expected, actual in _pairs(reference, test):
        same = _same(expected, actual)
        if same.all():
            continue
        with np.errstate(invalid="ignore"):  # inf - inf
            difference = np.abs(expected[~same] - actual[~same])
        largest = max(largest, float(np.where(np.isfinite(difference), difference, np.inf).max()))
    return largest


def _pairs(
    reference: NDArray[np.generic] | Sequence[NDArray[np.generic]],
    test: NDArray[np.generic] | Sequence[NDArray[np.generic]],
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    references = [reference] if isinstance(reference, np.ndarray) else list(reference)
    tests = [test] if isinstance(test, np.ndarray) else list(test)
    if len(references) != len(tests):
        raise ValueError(f"{len(references)} arrays cannot be compared with {len(tests)}")
    for expected, actual in zip(references, tests, strict=True):
        if expected.shape != actual.shape:
            raise ValueError(f"the shape {expected.shape} is not {actual.shape}")
        with np.errstate(invalid="ignore"):
            yield expected.astype(np.float64), actual.astype(np.float64)


def _same(expected: NDArray[np.float64], actual: NDArray[np.float64]) -> NDArray[np.bool_]:
    both_nan = np.isnan(expected) & np.isnan(actual)
    same: NDArray[np.bool_] = (expected == actual) | both_nan
    return same
