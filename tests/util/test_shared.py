"""A change of the process that several threads make together is taken back once, by the last."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from deployfold.util.shared import SharedChange


def test_the_first_makes_it_and_the_last_takes_it_back():
    steps = []

    def make():
        steps.append("made")
        return lambda: steps.append("undone")

    change = SharedChange(make)
    first, second = change.made(), change.made()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert steps == ["made"]
    second.__exit__(None, None, None)
    assert steps == ["made", "undone"]


def test_the_change_is_undone_after_an_error():
    state = []
    change = SharedChange(lambda: state.append(1) or state.clear)
    with pytest.raises(KeyError), change.made():
        raise KeyError
    assert not state


def test_threads_find_it_made():
    state = {"on": False}

    def make():
        assert not state["on"]
        state["on"] = True
        return lambda: state.update(on=False)

    change, gate = SharedChange(make), threading.Barrier(8)

    def work(_: int) -> bool:
        gate.wait()
        seen = True
        for _ in range(200):
            with change.made():
                seen &= state["on"]
        return seen

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert not state["on"]
