"""The texts for a compute capability, and back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis_examples import examples

from deployfold.targets.compute_capability import (
    dotted,
    parse_dotted,
    parse_target,
    sm_name,
    sm_names,
)

CAPABILITIES = st.tuples(st.integers(1, 99), st.integers(0, 9))


@settings(max_examples=examples(100))
@given(CAPABILITIES)
def test_every_text_is_read_back(capability: tuple[int, int]) -> None:
    assert parse_dotted(dotted(capability)) == capability
    assert parse_target(dotted(capability)) == capability
    assert parse_target(sm_name(capability)) == capability


@pytest.mark.parametrize("text", ["", "8", "8.90", "0.9", "[N/A]", "sm_89", " 8.9", "100.0", "٨.٩"])
def test_another_text_is_not_a_capability(text: str) -> None:
    assert parse_dotted(text) is None


def test_several_are_one_phrase() -> None:
    assert sm_names([(8, 0), (12, 1)]) == "sm_80, sm_121"
