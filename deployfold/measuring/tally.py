"""Running sums over pairs of arrays: the differences of outputs that do not fit in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deployfold.util.numerics import max_abs_diff

Values = NDArray[np.float64]


class Tally:
    """What :mod:`deployfold.util.numerics` says of two arrays, of arrays that come in pieces.

    All sums are of values divided by a power of two near the greatest seen, so that neither squares
    nor their sums overflow; a power of two divides without rounding.
    """

    def __init__(self) -> None:
        self.max_abs_diff = 0.0
        self.nonfinite = 0
        self._exponent: int | None = None
        self._signal = self._noise = self._other = self._dot = 0.0

    def add(self, first: Values, second: Values) -> None:
        """Take in two flat arrays of one length: the original's values and the artifact's."""
        finite = np.isfinite(first) & np.isfinite(second)
        same = (first == second) | (np.isnan(first) & np.isnan(second))
        self.nonfinite += int(np.count_nonzero(~finite & ~same))
        self.max_abs_diff = max(self.max_abs_diff, max_abs_diff(first, second))
        first, second = first[finite], second[finite]
        greatest = max((float(np.abs(v).max(initial=0.0)) for v in (first, second)), default=0.0)
        if greatest == 0.0:
            return
        scale = self._scale(math.frexp(greatest)[1])
        first, second = np.ldexp(first, -scale), np.ldexp(second, -scale)
        self._signal += float(first @ first)
        self._other += float(second @ second)
        self._dot += float(first @ second)
        self._noise += float(np.square(first - second).sum())

    @property
    def sqnr_db(self) -> float:
        """Decibels; ``inf`` where nothing differs, ``-inf`` where a value is no number."""
        if self.nonfinite:
            return -math.inf
        if self._noise == 0.0:
            return math.inf
        return 10 * math.log10(self._signal / self._noise) if self._signal else -math.inf

    @property
    def cosine(self) -> float:
        """Between the two; NaN where one is all zero or not a number."""
        if self.nonfinite:
            return math.nan
        if self.max_abs_diff == 0.0:
            return 1.0
        if self._signal == 0.0 or self._other == 0.0:
            return math.nan
        value = self._dot / (math.sqrt(self._signal) * math.sqrt(self._other))
        return min(1.0, max(-1.0, value))

    def _scale(self, exponent: int) -> int:
        """The exponent that all sums share, raised to ``exponent`` if that is greater."""
        if self._exponent is None or exponent > self._exponent:
            if self._exponent is not None:
                for name in ("_signal", "_noise", "_other", "_dot"):
                    shrunk = math.ldexp(getattr(self, name), 2 * (self._exponent - exponent))
                    setattr(self, name, shrunk)
            self._exponent = exponent
        return self._exponent


def least(values: Sequence[float]) -> float:
    """The least value; NaN if one is NaN."""
    return math.nan if any(math.isnan(value) for value in values) else min(values)
