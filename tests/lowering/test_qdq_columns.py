"""A layer's output is its weight times its columns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from deployfold.lowering.qdq.columns import LEAST_COLUMNS, columns_of, rows_of
from deployfold.lowering.qdq.formats import INT8
from deployfold.lowering.qdq.layers import Layer
from deployfold.lowering.qdq.rounding import stored_weight

CONVOLUTIONS = {
    "1-D": ((2, 4, 9), (6, 4, 3), {"pads": [1, 2], "dilations": [2]}, 1),
    "2-D": ((1, 4, 9, 11), (6, 4, 3, 3), {"pads": [1, 0, 2, 1], "strides": [2, 1]}, 1),
    "depthwise": ((3, 4, 6, 7), (4, 1, 3, 5), {"pads": [1, 2, 1, 2], "dilations": [2, 1]}, 4),
    "grouped": ((1, 8, 5, 5), (6, 4, 1, 1), {"strides": [2, 2]}, 2),
    "3-D": ((2, 4, 5, 6, 7), (6, 2, 3, 3, 1), {"pads": [1, 1, 0, 0, 1, 2]}, 2),
}


def layer(op_type: str, axis: int = 0, groups: int = 1) -> Layer:
    return Layer("node", op_type, "x", "y", "w", None, axis, groups)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_is_a_product(name):
    shape, kernel, attributes, groups = CONVOLUTIONS[name]
    random = np.random.default_rng(0)
    values = [random.standard_normal(shape).astype("float32") for _ in range(2)]
    weight = random.standard_normal(kernel).astype("float32")
    axes = len(kernel) - 2
    before, after = np.reshape(attributes.get("pads", [0] * 2 * axes), (2, axes)).tolist()
    pads = [side for pair in zip(reversed(before), reversed(after), strict=True) for side in pair]
    wanted = [
        getattr(functional, f"conv{axes}d")(
            functional.pad(torch.from_numpy(value), pads), torch.from_numpy(weight),
            stride=attributes.get("strides", 1), dilation=attributes.get("dilations", 1),
            groups=groups,
        ).transpose(0, 1).flatten(1)
        for value in values
    ]  # fmt: skip
    one = layer("Conv", groups=groups)
    (columns,) = columns_of(one, [values], weight, attributes) or ()
    found = rows_of(one, weight).float() @ columns.values
    torch.testing.assert_close(found.flatten(0, 1), torch.cat(wanted, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [2, 2]},
        {"strides": [3, 1], "dilations": [1, 2], "pads": [1, 0, 1, 0], "output_padding": [2, 0]},
    ],
)
def test_a_transposed_convolution_is_a_product(attributes):
    random = np.random.default_rng(0)
    value = random.standard_normal((2, 3, 5, 4)).astype("float32")
    weight = random.standard_normal((3, 4, 2, 3)).astype("float32")
    one = layer("ConvTranspose", 1)
    (columns,) = columns_of(one, [[value]], weight, attributes) or ()
    wanted = functional.conv_transpose2d(
        torch.from_numpy(value), torch.from_numpy(weight), stride=attributes["strides"],
        padding=attributes.get("pads", [0, 0])[:2], dilation=attributes.get("dilations", 1),
        output_padding=attributes.get("output_padding", 0),
    )  # fmt: skip
    found = rows_of(one, weight) @ columns.values
    torch.testing.assert_close(found[0], wanted.transpose(0, 1).flatten(1), rtol=1e-4, atol=1e-5)
    codes = torch.from_numpy(random.integers(-127, 128, (*found.shape[:2], 18))).float()
    stored = torch.from_numpy(stored_weight(one, codes, weight.shape, INT8))
    assert stored.shape == weight.shape
    assert torch.equal(rows_of(one, stored), codes)


@pytest.mark.parametrize(
    ("op_type", "axis", "shape"),
    [("MatMul", 1, (2, 5, 6)), ("Gemm", 0, (7, 6)), ("Gemm", 1, (7, 6))],
)
def test_a_matrix_product_is_one(op_type, axis, shape):
    random = np.random.default_rng(0)
    value = random.standard_normal(shape).astype("float32")
    weight = random.standard_normal((6, 3) if axis else (3, 6)).astype("float32")
    one = layer(op_type, axis)
    (columns,) = columns_of(one, [[value]], weight, {}) or ()
    wanted = (value.reshape(-1, 6) @ (weight if axis else weight.T)).T
    np.testing.assert_allclose(
        (rows_of(one, weight).float() @ columns.values)[0], wanted, rtol=1e-4, atol=1e-5
    )


def test_of_many_columns_the_same_are_drawn_of_two_inputs():
    values = [np.arange(2 * 150 * 150, dtype=np.float32).reshape(1, 2, 150, 150)] * 2
    weight, attributes = np.ones((1, 2, 3, 3), np.float32), {"pads": [1, 1, 1, 1]}
    doubled = [value * 2 for value in values]
    first, other = columns_of(layer("Conv"), [values, doubled], weight, attributes) or ()
    assert first.values.shape == (1, 18, LEAST_COLUMNS)
    torch.testing.assert_close(first.values * 2, other.values)


def test_padding_that_is_not_told_in_numbers_is_left_alone():
    value, weight = np.ones((1, 2, 4, 4), np.float32), np.ones((1, 2, 3, 3), np.float32)
    assert columns_of(layer("Conv"), [[value]], weight, {"auto_pad": b"SAME_UPPER"}) is None
    given = {"output_shape": [8, 8]}
    assert columns_of(layer("ConvTranspose", 1), [[value]], weight, given) is None
