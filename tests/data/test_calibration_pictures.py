"""Samples of one picture stay together, so that what is fitted is judged on other pictures."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from deployfold.data.draw import Drawn
from deployfold.data.picture_groups import by_picture, judged_from
from deployfold.lowering.qdq.sample_split import halves


def drawn(samples, seed=0):
    order = np.random.default_rng(seed).permutation(len(samples)).tolist()
    return Drawn(
        tuple(order), tuple(samples[i] for i in order), tuple(str(i) for i in order), (), ()
    )


def noise(seed, shape=(3, 32, 32)):
    coarse = np.random.default_rng(seed).standard_normal((shape[0], 8, 9))
    return np.kron(coarse, np.ones((1, 4, 4)))[:, :32, :32].astype("f4")


def test_samples_that_follow_each_other_are_one_picture():
    samples = [{"x": np.full((4,), index, "f4")} for index in range(100)]
    together, pictures = by_picture(drawn(samples), 0)
    assert sorted(together.indices) == list(range(100))
    assert len(set(pictures)) == 10
    for picture in set(pictures):
        members = [i for i, one in zip(together.indices, pictures, strict=True) if one == picture]
        assert members == list(range(members[0], members[0] + 10))
    edges = sum(a != b for a, b in itertools.pairwise(pictures))
    assert edges == 9, "a picture is in one piece"
    for index, sample, digest in zip(
        together.indices, together.samples, together.digests, strict=True
    ):
        assert sample["x"][0] == index == int(digest)


def test_near_duplicates_are_one_picture():
    samples = [{"x": noise(index)} for index in range(36)]
    samples[30] = {"x": samples[2]["x"] * 1.1 + 0.01}  # brighter
    together, pictures = by_picture(drawn(samples), 0)
    of = dict(zip(together.indices, pictures, strict=True))
    assert of[30] == of[2]
    assert of[31] != of[2]


def test_another_seed_calibrates_on_other_pictures():
    samples = [{"x": np.full((4,), index, "f4")} for index in range(100)]
    orders = {by_picture(drawn(samples), seed)[0].indices[:10] for seed in range(5)}
    assert len(orders) > 1


@pytest.mark.parametrize("start", [16, 50])
def test_who_judges_shares_no_picture_with_the_guard(start):
    pictures = [index // 10 for index in range(100)]
    first = judged_from(pictures, start)
    assert start < first < 100
    assert not set(pictures[:first]) & set(pictures[first:])


def test_few_samples_are_not_divided():
    assert judged_from([0] * 40, 30) == 40
    assert judged_from([0] * 64, 32) == 64, "one picture cannot be divided"


def test_two_folds_share_no_picture():
    pictures = [0, 1, 0, 2, 1, 0, 0, 0]
    order, starts = halves(pictures)
    assert sorted(order) == list(range(8))
    (start,) = starts
    first, second = ({pictures[i] for i in part} for part in (order[:start], order[start:]))
    assert not first & second
    assert start == 5
    assert halves([7, 7, 7])[1] == ()
