"""A fit to some pictures is kept only if it improves the results on others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deployfold.lowering.qdq.columns import Columns
from deployfold.lowering.qdq.fit import NEAREST, STRENGTHS, fit
from deployfold.lowering.qdq.formats import INT8
from deployfold.lowering.qdq.layers import Layer
from deployfold.lowering.qdq.problem import UNBOUNDED, Problem


def problem(width: int, each: int, noise, bounds=UNBOUNDED) -> tuple[Layer, np.ndarray, Problem]:
    """A 1x1 convolution of 16 channels; ``noise`` of a fold's columns is what int8 adds to them."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((16, width, 1, 1)).astype("f4")
    exact = torch.from_numpy(random.standard_normal((1, width, 2 * each)).astype("f4"))
    folds = (slice(0, each), slice(each, 2 * each))
    read = torch.cat([exact[:, :, part] + noise(i, exact[:, :, part])
                      for i, part in enumerate(folds)], 2)  # fmt: skip
    layer = Layer("node", "Conv", "x", "y", "w", "b", 0)
    rows = torch.from_numpy(weight.reshape(1, 16, width))
    bias = torch.zeros(1, 16, 1)
    return layer, weight, Problem(rows, bias, bounds, Columns(exact, folds), Columns(read, folds))


def test_an_error_that_all_pictures_share_is_made_up_for():
    """The quantised layers before halve a channel, everywhere."""

    def halved(_, columns):
        noise = torch.zeros_like(columns)
        noise[:, 0] = -columns[:, 0] / 2
        return noise

    layer, weight, one = problem(8, 4000, halved)
    found = fit(layer, weight, one, STRENGTHS, INT8)
    assert found.choice.strength is STRENGTHS[-1]
    ratio = found.weight[:, 0, 0, 0] * found.weight_scale / weight[:, 0, 0, 0]
    assert np.median(ratio) > 1.2


def test_an_error_of_one_picture_alone_is_not():
    random = torch.Generator().manual_seed(0)

    def random_mix(_, columns):
        width = columns.shape[1]
        return torch.randn(width, width, generator=random) @ columns * 0.3 / width**0.5

    layer, weight, one = problem(64, 40, random_mix)
    found = fit(layer, weight, one, STRENGTHS, INT8)
    assert found.choice.strength is not STRENGTHS[-1]


@pytest.mark.parametrize("shared", [True, False])
def test_a_bias_moves_only_where_the_mean_error_is_the_same_in_other_pictures(shared):
    def shifted(fold, columns):
        return torch.full_like(columns, 0.3 if shared or fold == 0 else -0.3)

    layer, weight, one = problem(8, 500, shifted)
    found = fit(layer, weight, one, (NEAREST,), INT8)
    assert found.choice.corrected is shared
    if shared:
        wanted = -0.3 * weight.sum((1, 2, 3))
        np.testing.assert_allclose(found.bias, wanted, atol=0.05)
    else:
        np.testing.assert_array_equal(found.bias, 0.0)


def test_the_mean_is_kept_behind_the_activation():
    """Values that a ReLU cuts off have no part in it: their error is huge and does not count."""

    def below(_, columns):
        return torch.where(columns < -0.5, -5.0, 0.0)

    layer, weight, one = problem(1, 4000, below, bounds=(0.0, float("inf")))
    positive = torch.from_numpy(np.abs(weight.reshape(1, 16, 1)))
    one = Problem(positive, one.bias, one.bounds, one.exact, one.read)
    found = fit(layer, np.abs(weight), one, (NEAREST,), INT8)
    assert float(np.abs(found.bias).max()) < 0.02


def test_a_few_huge_tokens_do_not_take_the_weights_of_the_others():
    """One token in a hundred is 100 times as large, and the layers before lose a tenth of it."""
    random = np.random.default_rng(0)
    huge = torch.from_numpy(np.where(random.random(2000) < 0.01, 100.0, 1.0).astype("f4"))
    layer, weight, one = problem(32, 1000, lambda *_: 0.0)
    exact = one.exact.values * huge
    lost = torch.where(huge > 1.0, 0.9, 1.0)
    columns = Columns(exact, one.parts), Columns(exact * lost, one.parts)

    def error(tokens: bool) -> float:
        given = Problem(one.rows, None, UNBOUNDED, *columns, tokens=tokens)
        found = fit(layer, weight, given, STRENGTHS, INT8)
        fitted = found.weight.reshape(16, 32) * found.weight_scale[:, None]
        usual = exact[0][:, huge == 1.0].numpy()
        wanted = weight.reshape(16, 32) @ usual
        return float(np.square(fitted @ usual - wanted).sum() / np.square(wanted).sum())

    assert error(tokens=True) < 0.2 * error(tokens=False)
