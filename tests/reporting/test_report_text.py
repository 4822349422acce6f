"""Numbers have a fixed form, and names cannot add markup or lines."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployfold.reporting import text
from deployfold.reporting.row import Speedup


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (61.234, "61.2"),
        (9.996, "10.0"),
        (99.96, "100"),
        (0.051234, "0.0512"),
        (0.00099996, "0.00100"),
        (1204.4, "1,204"),
        (0.0, "0"),
        (math.inf, "–"),
    ],
)
def test_three_significant_digits(value: float, expected: str) -> None:
    assert text.digits(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "–"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.000 kB"),
        (999_999, "1.000 MB"),
        (51_930_000, "51.93 MB"),
        (102_530_333, "102.5 MB"),
        (4_200_000_000, "4.200 GB"),
    ],
)
def test_sizes_are_decimal(value: int | None, expected: str) -> None:
    assert text.size(value) == expected


def test_counts() -> None:
    assert text.short(25_557_032) == "25.56 M"
    assert text.short(999_999) == "1.000 M"
    assert text.short(53) == "53"
    assert text.short(None) == "–"


@given(st.integers(0, 10**13))
def test_a_written_size_is_near_the_true_one(count: int) -> None:
    number, unit = text.size(count).split()
    factor = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}[unit]
    assert float(number.replace(",", "")) * factor == pytest.approx(count, rel=6e-4)


def test_speedups() -> None:
    assert text.speedup(Speedup(value=1.31, low=1.29, high=1.33)) == "1.31× [1.29, 1.33]"
    assert text.speedup(Speedup(value=1.0, low=0.98, high=1.02)) == "≈ [0.98, 1.02]"
    assert text.speedup(Speedup(value=1.01, low=1.0, high=1.02)) == "≈ [1.00, 1.02]"
    assert text.speedup(Speedup(value=12.34, low=9.998, high=123.4)) == "12.3× [10.0, 123]"
    assert text.speedup(Speedup(value=2.0, low=1.9, high=2.1), interval=False) == "2.00×"


def test_differences() -> None:
    assert text.difference(0.0) == "0"
    assert text.difference(1.234e-6) == "1.2e-06"
    assert text.difference(math.inf) == text.difference(math.nan) == "NaN/inf"
    assert text.decibels(math.inf) == "equal"
    assert text.decibels(43.21) == "43.2 dB"
    assert text.decibels(-math.inf) == "NaN/inf"


@given(st.text())
def test_cleaned_text_is_one_line_that_no_terminal_obeys(value: str) -> None:
    cleaned = text.clean(value)
    assert cleaned.isprintable() or all(c.isprintable() or c.isspace() for c in cleaned)
    assert not any(c in cleaned for c in "\x1b\x9b\n\r\t\x07\u202e\u2028\u2066")
    cleaned.encode("utf-8")  # no lone surrogates


def test_ordinary_names_are_kept() -> None:
    assert text.clean("модель №1 [v2] 層 é") == "модель №1 [v2] 層 é"
