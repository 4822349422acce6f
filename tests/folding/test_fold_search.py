"""The search for the values that the model's code reads is bounded, and names what it skipped."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deployfold.folding.proof.search import keep_needed, most_folds


@given(st.integers(1, 500), st.data())
def test_one_that_is_looked_at_is_found_within_the_bound(count, data):
    looked_at = str(data.draw(st.integers(0, count - 1)))
    tried = []

    def attempt(kept):
        tried.append(kept)
        return kept if looked_at in kept else None

    found = keep_needed([str(number) for number in range(count)], attempt)
    assert found is not None
    assert found.kept == {looked_at}
    assert not found.untried
    assert len(tried) <= most_folds(count) + 2


def test_the_rest_of_many_is_said_to_be_untried():
    names = [str(number) for number in range(256)]
    needed = frozenset(names[::2])
    found = keep_needed(names, lambda kept: kept if needed <= kept else None)
    assert found is not None
    assert needed <= found.kept
    assert found.untried
    assert most_folds(256) < 25


def test_none_if_keeping_all_does_not_help():
    assert keep_needed(["a", "b"], lambda kept: None) is None
