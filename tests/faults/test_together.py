"""The same command runs twice at the same time, in the same directory."""

from __future__ import annotations

import random
import time

import pytest
from fault_commands import FEW, Ended, Running
from fault_whole import check_whole, temporaries
from test_signals import completes

pytestmark = pytest.mark.slow
TOLD = ("Another deployfold is at work in", "is not empty", "Directory not empty")


def test_two_at_once(command, given, undisturbed, case, count):
    """One run completes. The other completes too, or reports the first."""
    wanted = undisturbed(command)
    chance, refused = random.Random(command.name), 0
    for number in range(FEW):
        out = case()
        command.prepare(given, out)
        first = Running.start(command, given, out)
        # At the same time, when they are most alike, or while the first is anywhere.
        time.sleep(chance.random() * wanted.seconds if number % 2 else 0)
        second = Running.start(command, given, out)
        ends: list[Ended] = [first.end(), second.end()]
        assert any(ended.code == 0 for ended in ends), ends
        for ended in ends:
            error = ended.error()
            assert ended.code == 0 or (ended.code == 2 and any(t in error for t in TOLD)), ended
            refused += ended.code != 0
        check_whole(out, wanted, fixed=command.fixed)
        completes(command, given, out, wanted)
        assert temporaries(out) == []
    count(command.name, "two at once", FEW, f"{refused} times one was told of the other")
