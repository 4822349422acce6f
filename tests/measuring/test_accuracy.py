"""Differences of outputs, with the odd values of floating point."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deployfold.errors import MeasureError
from deployfold.measuring.accuracy import Comparison, compare, not_judged
from deployfold.util.numerics import max_abs_diff, sqnr_db

REFERENCE = np.array([[1.0, -2.0, 3.0], [0.5, 4.0, -1.0]], dtype=np.float32)


def test_identical_outputs() -> None:
    result = compare([REFERENCE], [REFERENCE.copy()])
    assert (result.max_abs_diff, result.sqnr_db, result.cosine) == (0.0, math.inf, 1.0)
    assert result.top1_agreement == 1.0
    assert result.nonfinite == 0


def test_a_known_error() -> None:
    test = REFERENCE.copy()
    test[1] = [4.5, 4.0, -1.0]  # off by 4, and another winner
    result = compare([REFERENCE], [test])
    assert result.max_abs_diff == 4.0
    assert result.sqnr_db == pytest.approx(10 * math.log10(float((REFERENCE**2).sum()) / 16))
    assert result.top1_agreement == 0.5
    dot = float((REFERENCE * test).sum())
    norms = float(np.linalg.norm(REFERENCE) * np.linalg.norm(test))
    assert result.cosine == pytest.approx(dot / norms)


def test_the_worst_output_counts_in_every_number() -> None:
    boxes = np.array([100.0, 800.0])
    scores = np.array([0.5, 0.25])
    result = compare([boxes, scores], [boxes + 1.0, scores - 0.25])
    assert result.max_abs_diff == 1.0  # of the boxes
    assert result.sqnr_db == pytest.approx(10 * math.log10(0.3125 / 0.125))  # of the scores
    assert result.cosine == pytest.approx(0.125 / math.sqrt(0.3125 * 0.0625))
    assert result.top1_agreement is None


@pytest.mark.parametrize(
    ("reference", "test"), [(1.0, math.nan), (math.nan, 1.0), (math.inf, -math.inf), (1, math.inf)]
)
def test_a_nan_or_infinity_on_one_side_is_the_worst_result(reference: float, test: float) -> None:
    first, second = np.array([reference, 2.0]), np.array([test, 2.0])
    result = compare([first], [second])
    assert result.max_abs_diff == math.inf
    assert result.sqnr_db == -math.inf
    assert math.isnan(result.cosine)
    assert result.nonfinite == 1


def test_the_same_nan_and_infinity_on_both_sides_are_left_out() -> None:
    first = np.array([math.nan, math.inf, -math.inf, 3.0, 4.0])
    second = np.array([math.nan, math.inf, -math.inf, 3.0, 5.0])
    result = compare([first], [second])
    assert result.max_abs_diff == 1.0
    assert result.sqnr_db == pytest.approx(10 * math.log10(25))
    assert result.nonfinite == 0


def test_a_bad_output_is_not_hidden_by_a_good_one() -> None:
    good, bad = np.ones(3), np.full(3, math.nan)
    result = compare([good, good], [good, bad])
    assert result.max_abs_diff == math.inf
    assert math.isnan(result.cosine)
    assert result.nonfinite == 3


def test_huge_values_do_not_overflow_the_cosine() -> None:
    first = np.array([3e38, -3e38], dtype=np.float32)
    result = compare([first], [first * np.float32(0.5)])
    assert result.cosine == pytest.approx(1.0)


def test_integers_booleans_and_complex_numbers() -> None:
    assert compare([np.array([200], np.uint8)], [np.array([250], np.uint8)]).max_abs_diff == 50.0
    assert compare([np.array([True])], [np.array([False])]).max_abs_diff == 1.0
    assert compare([np.array([1 + 2j])], [np.array([1 - 2j])]).max_abs_diff == 4.0


def test_each_of_several_outputs_is_judged_apart() -> None:
    boxes, scores = np.array([[100.0, 800.0]]), np.array([0.5, 0.25])
    result = compare([boxes, scores], [boxes + 1.0, scores])
    assert [(one.index, one.shape, one.max_abs_diff) for one in result.outputs] == [
        (0, (1, 2), 1.0),
        (1, (2,), 0.0),
    ]
    assert result.outputs[1].sqnr_db == math.inf
    assert compare([REFERENCE], [REFERENCE]).outputs == ()


def test_top_five_contains_the_originals_first_class() -> None:
    reference = np.eye(8)[[0, 1, 2, 3]]  # one sample for each of the classes 0 to 3
    test = np.tile(np.arange(8.0), (4, 1))  # its five first classes are 7, 6, 5, 4 and 3
    result = compare([reference], [test])
    assert (result.top1_agreement, result.top5_agreement, result.samples) == (0.0, 0.25, 4)
    assert compare([reference[:, :5]], [test[:, :5]]).top5_agreement is None, "always 1"
    tied = compare([reference], [np.zeros((4, 8))])
    assert tied.top5_agreement == 1.0, "of equal outputs the lower classes come first"


def test_accuracy_with_labels() -> None:
    result = compare([REFERENCE], [REFERENCE], labels=[2, 0])  # its classes are 2 and 1
    assert result.accuracy == 0.5
    assert compare([REFERENCE], [REFERENCE]).accuracy is None
    for labels, wording in (
        ([2], "1 labels for 2"),
        ([3, 0], "label is 3"),
        ([-1, 0], "label is -1"),
    ):
        with pytest.raises(MeasureError, match=wording):
            compare([REFERENCE], [REFERENCE], labels=labels)
    with pytest.raises(MeasureError, match="need a classifier"):
        compare([REFERENCE, REFERENCE], [REFERENCE, REFERENCE], labels=[0, 0])


pieces = st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1, max_size=30)


@given(pieces, st.integers(1, 30))
@example([(6e-157, 379247.0)], 1)
def test_feeds_one_after_the_other_say_what_all_at_once_do(
    pairs: list[tuple[float, float]], cut: int
) -> None:
    first, second = np.array(pairs).T
    comparison = Comparison()
    for part in (slice(None, cut), slice(cut, None)):
        comparison.add([first[part]], [second[part]])
    result = comparison.result()
    assert result.max_abs_diff == max_abs_diff(first, second)
    assert result.samples == len(pairs)
    expected = sqnr_db(first, second)
    assert result.sqnr_db == pytest.approx(expected, abs=1e-9, rel=1e-12)
    whole = compare([first], [second]).cosine
    assert result.cosine == pytest.approx(whole, nan_ok=True)


def test_pieces_of_very_different_size_do_not_overflow() -> None:
    comparison = Comparison()
    for scale in (1e-150, 1e200, 1.0):
        comparison.add([np.array([scale, scale])], [np.array([scale, -scale])])
    assert comparison.result().sqnr_db == pytest.approx(10 * math.log10(0.5))
    assert comparison.result().cosine == pytest.approx(0.0)


def test_outputs_that_cannot_be_compared_are_an_error() -> None:
    with pytest.raises(MeasureError, match="2 outputs and the artifact 1"):
        compare([REFERENCE, REFERENCE], [REFERENCE])
    with pytest.raises(MeasureError, match=r"shape \(6,\)"):
        compare([REFERENCE], [REFERENCE.reshape(-1)])
    with pytest.raises(MeasureError, match="0 outputs"):
        compare([], [])


def test_outputs_that_no_comparison_judges_are_told() -> None:
    """Half of the values NaN, or all zero, gave «inf dB» without a word."""
    half = np.array([[1.0, np.nan, np.inf, 2.0]], np.float32)
    assert not_judged([half]) == (
        "the output: 50 % of the values are NaN or infinite here, and are not compared",
    )
    zeros, whole = np.zeros((1, 4), np.float32), np.zeros((1, 4), np.int64)
    assert not_judged([half[:, :1], zeros, whole, zeros[:, :0]]) == (
        "output 1 is all zero here, so that its accuracy says nothing",
    )
