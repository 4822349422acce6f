"""The compiler is killed, or runs out of memory, during its work."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections.abc import Callable

import pytest
from fault_commands import BY_NAME, FEW, Command, Ended, Running
from fault_whole import check_whole, temporaries
from test_signals import completes

pytestmark = pytest.mark.slow
GIB = 1 << 30


@pytest.fixture(params=("build", "finish", "sweep"))
def compiling(request: pytest.FixtureRequest) -> Command:
    return BY_NAME[request.param]


def disturb(command: Command, given, undisturbed, case, act: Callable[[int, int], None], judge):
    """Do ``act(case, pid)`` to the compile worker of ``FEW`` runs; returns how many failed."""
    wanted, hits, failed, tries = undisturbed(command), 0, 0, 0
    while hits < FEW:
        tries += 1
        assert tries < 4 * FEW + 4, "the worker is always gone"
        out = case()
        command.prepare(given, out)
        running = Running.start(command, given, out)
        while not (workers := running.workers()) and running.process.poll() is None:
            time.sleep(0.01)
        try:
            for pid in workers:
                act(hits, pid)
            hits += bool(workers)
        except ProcessLookupError:
            pass
        ended = running.end()
        if ended.code:
            failed += 1
            assert ended.code == (11 if command.name == "sweep" else 6), ended
            judge(ended)
        else:
            assert ended.error() == ""
        check_whole(out, wanted, fixed=command.fixed)
        assert not running.left(), "processes are left"
        completes(command, given, out, wanted)
        assert temporaries(out) == []
    return failed


def test_killed(compiling, given, undisturbed, case, count):
    chance = random.Random(compiling.name)

    def kill(number: int, pid: int) -> None:
        time.sleep(chance.random() * 0.6)
        os.kill(pid, signal.SIGKILL)

    def judge(ended: Ended) -> None:
        if compiling.name != "sweep":
            assert "The compile worker was killed by SIGKILL" in ended.error()
            assert "memory runs out" in ended.err

    failed = disturb(compiling, given, undisturbed, case, kill, judge)
    assert failed
    count(compiling.name, "compiler killed", FEW, f"{failed} before it was done")


def test_little_memory(compiling, given, undisturbed, case, count):
    """The limits go from 100 MiB of address space, too little to load a library, to 3 GiB."""

    def limit(number: int, pid: int) -> None:
        most = int(GIB / 10 * 30 ** (number / FEW))
        resource.prlimit(pid, resource.RLIMIT_AS, (most, most))

    failed = disturb(compiling, given, undisturbed, case, limit, lambda ended: ended.error())
    assert failed
    count(compiling.name, "little memory", FEW, f"{failed} did not manage")
