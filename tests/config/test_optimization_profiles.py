"""Batch sizes and shapes to serve, as users write them, and the axes that they make dynamic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployfold.config.inputs import InputSpec
from deployfold.config.make_spec import make_spec
from deployfold.config.optimization_profiles import (
    DynamicBatch,
    InputShapes,
    complete,
    parse_profile,
    span,
)
from deployfold.errors import UsageError

SIZES = st.lists(st.integers(1, 99), min_size=1, max_size=4)


@given(low=SIZES, more=st.data())
def test_a_range_reads_its_own_text(low, more):
    opt = [size + more.draw(st.integers(0, 9)) for size in low]
    high = [size + more.draw(st.integers(0, 9)) for size in opt]
    texts = ["x".join(map(str, shape)) for shape in (low, opt, high)]
    (shapes,) = parse_profile("a=" + ":".join(texts))
    assert shapes == InputShapes("a", tuple(low), tuple(opt), tuple(high))
    assert all(shapes.contains(shape) for shape in (low, opt, high))
    assert not shapes.contains([size + 1 for size in high])
    assert not shapes.contains([*low, 1])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1x3", "not a range of shapes"),
        ("1x3:2x3", "not a range of shapes"),
        ("a=1x3:2x3:4x3,", "not a range of shapes"),
        ("1x3:2x3:4", "1 <= min <= opt <= max"),
        ("2x3:1x3:4x3", "1 <= min <= opt <= max"),
        ("0x3:1x3:4x3", "1 <= min <= opt <= max"),
        ("a=1:2:3,a=1:2:3", "twice"),
    ],
)
def test_an_invalid_range_is_an_error(text, says):
    with pytest.raises(UsageError, match=says):
        parse_profile(text)


def test_batches_are_one_profile_each():
    two = make_spec("net.pt", {"dynamic-batch": "1:1:1,2:8:32"})
    assert two.dynamic == (DynamicBatch(1, 1, 1), DynamicBatch(2, 8, 32))
    assert make_spec("net.pt", {}).dynamic == ()
    with pytest.raises(UsageError, match="exclude each other"):
        make_spec("net.pt", {"dynamic-batch": "1:2:4", "shapes": ["1x3:2x3:4x3"]})


def test_a_profile_is_completed_with_the_inputs_that_it_leaves_out():
    shapes = {"image": (1, 3, 8, 8), "mask": (1, 4)}
    (asked,) = parse_profile("1x3x8x8:2x3x8x8:4x3x16x16")
    image, mask = complete((asked,), shapes)
    assert (image.name, image.max) == ("image", (4, 3, 16, 16))
    assert mask == InputShapes("mask", (1, 4), (1, 4), (1, 4))
    (named,) = parse_profile("mask=1x4:1x4:9x4")
    assert complete((named,), shapes)[1] == named


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nose=1x3:1x3:1x3", "no input named 'nose'"),
        ("1x3:1x3:1x3", "has 4 axes, but --shapes gives it 2"),
        ("1x4:1x4:1x4,1x4:1x4:1x4,1x4:1x4:1x4", "gives 3 inputs, but the model has 2"),
    ],
)
def test_a_profile_that_does_not_fit_the_model_is_an_error(text, says):
    with pytest.raises(UsageError, match=says):
        complete(parse_profile(text), {"image": (1, 3, 8, 8), "mask": (1, 4)})


def test_dynamic_axes_span_all_profiles():
    spec = InputSpec.parse(["image=1x3x8x8", "mask=1x4"])
    assert spec.dynamic_axes == ({}, {})
    texts = ("image=1x3x8x8:1x3x8x8:2x3x8x16", "image=4x3x8x8:4x3x8x8:4x3x8x9")
    wide = tuple(map(parse_profile, texts))
    assert spec.with_profiles(wide).dynamic_axes == ({0: (1, 4), 3: (8, 16)}, {})
    batch = spec.with_profiles((DynamicBatch(2, 2, 2), DynamicBatch(1, 1, 1)))
    assert batch.dynamic_axes == ({0: (1, 2)}, {0: (1, 2)})


def test_a_span_contains_every_range_and_no_more():
    ranges = [InputShapes("a", (1, 8), (2, 8), (4, 9)), InputShapes("a", (3, 2), (5, 8), (8, 8))]
    assert span(ranges) == InputShapes("a", (1, 2), (2, 8), (8, 9))
    assert span(ranges[:1]) == ranges[0]
