"""Differences between two sets of arrays. The module needs only numpy, so any stage can import it.

The sums of squares have a separate binary exponent, so that finite numbers of any scale neither
overflow nor underflow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from deployfold.util.arrays import Array

Arrays = NDArray[np.generic] | Sequence[NDArray[np.generic]]
Values = NDArray[np.float64]

_SAFE_EXPONENT = 400
"""Squares of numbers below 2^400 and above 2^-400 and their sums are normal float64 numbers."""
_DB_PER_BIT = 10.0 * math.log10(2.0)


class SumOfProducts:
    """Σ a·b over arrays of any scale, kept as ``mantissa · 2^exponent``."""

    def __init__(self) -> None:
        self.mantissa = 0.0
        self.exponent = 0

    def add(self, first: Values, second: Values, halvings: int = 0) -> None:
        """Add the products of two arrays of finite numbers and of one shape.

        Args:
            halvings: the number of times that each factor was divided by 2 before.
        """
        first, first_exponent = _scaled(first)
        second, second_exponent = _scaled(second)
        part = float(np.dot(first.reshape(-1), second.reshape(-1)))
        if part == 0.0:
            return
        exponent = first_exponent + second_exponent + 2 * halvings
        if self.mantissa == 0.0:
            self.mantissa, self.exponent = part, exponent
            return
        common = max(self.exponent, exponent)
        self.mantissa = math.ldexp(self.mantissa, self.exponent - common)
        self.mantissa += math.ldexp(part, exponent - common)
        self.exponent = common

    def over(self, other: SumOfProducts) -> float:
        """The ratio of this sum to the other, both positive, in decibels."""
        quotient = 10.0 * (math.log10(self.mantissa) - math.log10(other.mantissa))
        return quotient + _DB_PER_BIT * (self.exponent - other.exponent)


class RunningDifference:
    """The difference of outputs that do not fit into memory, computed piece by piece.

    Attributes:
        max_abs_diff: see :func:`max_abs_diff`.
        nonfinite: the number of values that are NaN or infinite on one side and differ.
    """

    def __init__(self) -> None:
        self.max_abs_diff = 0.0
        self.nonfinite = 0
        self._signal, self._other = SumOfProducts(), SumOfProducts()
        self._dot, self._noise = SumOfProducts(), SumOfProducts()

    def add(self, reference: Values, test: Values) -> None:
        """Add two arrays of one shape: the original's values and the artifact's."""
        finite = np.isfinite(reference) & np.isfinite(test)
        self.nonfinite += int(np.count_nonzero(~finite & ~_same(reference, test)))
        self.max_abs_diff = max(self.max_abs_diff, max_abs_diff(reference, test))
        reference, test = reference[finite], test[finite]
        self._signal.add(reference, reference)
        self._other.add(test, test)
        self._dot.add(reference, test)
        _add_squared_difference(self._noise, reference, test)

    @property
    def sqnr_db(self) -> float:
        """See :func:`sqnr_db`."""
        return -math.inf if self.nonfinite else _sqnr_db(self._signal, self._noise)

    @property
    def cosine(self) -> float:
        """The cosine between the two; NaN if one is all zero or contains NaN."""
        if self.nonfinite:
            return math.nan
        if self.max_abs_diff == 0.0:
            return 1.0
        if self._signal.mantissa == 0.0 or self._other.mantissa == 0.0:
            return math.nan
        norms = math.sqrt(self._signal.mantissa) * math.sqrt(self._other.mantissa)
        halves = self._signal.exponent + self._other.exponent  # even: exponents of squares
        value = math.ldexp(self._dot.mantissa / norms, self._dot.exponent - halves // 2)
        return min(1.0, max(-1.0, value))


def sqnr_db(reference: Arrays, test: Arrays) -> float:
    """Signal-to-quantisation-noise ratio in decibels, pooled over all arrays.

    ``10 log10(Σ reference² / Σ (reference - test)²)``, summed in float64 over every element of
    every array. Elements that are the same NaN or infinity on both sides are left out.

    Args:
        reference: one array, or a sequence of arrays.
        test: the same number of arrays, of the same shapes.

    Returns:
        Decibels: ``inf`` for equal arrays; ``-inf`` if a value is non-finite on one side and
        differs, or if the reference is all zero and ``test`` is not.

    Raises:
        ValueError: the numbers of arrays or their shapes differ.
    """
    signal, noise = SumOfProducts(), SumOfProducts()
    for expected, actual in _pairs(reference, test):
        finite = np.isfinite(expected) & np.isfinite(actual)
        if not finite.all():
            if not _same(expected, actual)[~finite].all():
                return -math.inf
            expected, actual = expected[finite], actual[finite]
        signal.add(expected, expected)
        _add_squared_difference(noise, expected, actual)
    return _sqnr_db(signal, noise)


def max_abs_diff(reference: Arrays, test: Arrays) -> float:
    """The largest ``|reference - test|`` over all arrays, in the arrays' unit, in float64.

    Two NaN or two equal infinities in one place count as no difference. Any other NaN or infinity
    counts as ``inf``, and so does a difference beyond float64. Empty arrays give 0.

    Raises:
        ValueError: the numbers of arrays or their shapes differ.
    """
    largest = 0.0
    for expected, actual in _pairs(reference, test):
        same = _same(expected, actual)
        if same.all():
            continue
        with np.errstate(invalid="ignore", over="ignore"):  # inf - inf, 1e308 - -1e308
            difference = np.abs(expected[~same] - actual[~same])
        largest = max(largest, float(np.where(np.isfinite(difference), difference, np.inf).max()))
    return largest


def top_classes(values: Array, count: int) -> NDArray[np.int64]:
    """The indices of the ``count`` greatest values of each row, the greatest first.

    NaN sorts last. Among equal values, the lower index comes first, as in argmax.
    """
    order: NDArray[np.int64] = np.argsort(-values.astype(np.float64), axis=-1, kind="stable")
    return order[..., :count]


def least(values: Sequence[float]) -> float:
    """The least value; NaN if one is NaN."""
    return math.nan if any(math.isnan(value) for value in values) else min(values)


def _sqnr_db(signal: SumOfProducts, noise: SumOfProducts) -> float:
    if noise.mantissa == 0.0:
        return math.inf
    return signal.over(noise) if signal.mantissa > 0.0 else -math.inf


def _add_squared_difference(total: SumOfProducts, reference: Values, test: Values) -> None:
    """Add Σ (reference - test)²; halve huge values, so that their difference is finite."""
    greatest = max(_greatest(reference), _greatest(test))
    halvings = int(greatest > 2.0**1022)
    if halvings:
        reference, test = reference / 2, test / 2
    difference = reference - test
    total.add(difference, difference, halvings)


def _scaled(values: Values) -> tuple[Values, int]:
    """The values divided exactly by a power of two, and its exponent; 0 if none is needed."""
    exponent = math.frexp(_greatest(values))[1]
    if abs(exponent) <= _SAFE_EXPONENT:
        return values, 0
    return np.ldexp(values, -exponent), exponent


def _greatest(values: Values) -> float:
    return max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))


def _pairs(reference: Arrays, test: Arrays) -> Iterator[tuple[Values, Values]]:
    references = [reference] if isinstance(reference, np.ndarray) else list(reference)
    tests = [test] if isinstance(test, np.ndarray) else list(test)
    if len(references) != len(tests):
        raise ValueError(f"{len(references)} arrays cannot be compared with {len(tests)}")
    for expected, actual in zip(references, tests, strict=True):
        if expected.shape != actual.shape:
            raise ValueError(f"the shape {expected.shape} is not {actual.shape}")
        with np.errstate(invalid="ignore"):
            yield expected.astype(np.float64), actual.astype(np.float64)


def _same(expected: Values, actual: Values) -> NDArray[np.bool_]:
    both_nan = np.isnan(expected) & np.isnan(actual)
    same: NDArray[np.bool_] = (expected == actual) | both_nan
    return same
