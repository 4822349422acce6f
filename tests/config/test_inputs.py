"""Parsing of the user's shapes, batches and limits."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployfold.config.flag_values import read_arguments
from deployfold.config.inputs import DTYPES, InputSpec, TensorSpec
from deployfold.config.optimization_profiles import DynamicBatch
from deployfold.config.thresholds import parse_row_limits
from deployfold.errors import UsageError


@given(
    shape=st.lists(st.integers(1, 4096), min_size=0, max_size=5),
    name=st.none() | st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True),
    dtype=st.sampled_from(DTYPES),
)
def test_a_tensor_spec_reads_its_own_text(shape, name, dtype):
    spec = TensorSpec(tuple(shape), name, dtype)
    assert TensorSpec.parse(str(spec)) == spec


@given(st.text(max_size=30))
def test_any_text_is_a_spec_or_a_usage_error(text):
    for parse in (TensorSpec.parse, DynamicBatch.parse, lambda item: parse_row_limits([item])):
        with suppress(UsageError):  # nothing else
            parse(text)


@pytest.mark.parametrize("text", ["0:1:2", "2:1:3", "1:2", "a:b:c", "1:2:1"])
def test_batches_are_ordered(text):
    with pytest.raises(UsageError):
        DynamicBatch.parse(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4),
        ("false", False),
        ("None", None),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ("a=b", "a=b"),
    ],
)
def test_arguments_are_literals_words_of_json_or_text(text, value):
    assert read_arguments((f"width={text}",)) == (("width", value),)


def test_names_and_batches():
    spec = InputSpec.parse(["a=2x3", "4x5:int64"])
    assert spec.names == ("a", "input_1")
    assert spec.with_batch(7).tensors[1].shape == (7, 5)
    assert InputSpec.parse(["1x3"]).names == ("input",)
    with pytest.raises(UsageError, match="same input"):
        InputSpec.parse(["a=1", "a=2"])


def test_row_limits():
    assert parse_row_limits(["onnxruntime=12.5"]) == (("onnxruntime", 12.5),)
    with pytest.raises(UsageError):
        parse_row_limits(["onnxruntime=nan"])
