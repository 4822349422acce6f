"""SIGKILL, Ctrl-C and SIGTERM at any moment: what is there is whole, and a second run completes."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import time

import pytest
from fault_commands import CASES, FEW, Command, Ended, Running, run
from fault_whole import check_whole, files_of, temporaries

pytestmark = pytest.mark.slow
SECONDS = 30.0
"""In which Ctrl-C must have ended a command: a torch call in C++ is not interrupted earlier, and a
busy machine takes several times the second that it is."""


def completes(command: Command, given, out, wanted) -> None:
    """Run the same command again; it must succeed, with the same files as without the signal.

    The exceptions are unpack and oci: where the first run had come to its end, they refuse to do it
    again.
    """
    there = command.name in ("unpack", "oci") and files_of(out)
    done = run(command, given, out)
    error = done.error()
    assert done.code == (2 if there else 0), done.err
    assert not there or "is not empty" in error
    assert set(files_of(out)) == set(wanted.files)
    check_whole(out, wanted, fixed=command.fixed)
    assert temporaries(out) == []


def disturb(command, number, cases, given, undisturbed, case, judge, *, every=1):
    """Send ``number`` at ``cases`` moments spread over the run; returns cases and slowest end.

    Every ``every``-th time, the command then has to complete; the other times it is disturbed
    again over what it left.
    """
    wanted = undisturbed(command)
    chance = random.Random(f"{command.name} {number}")
    moments = [(case + chance.random()) / cases for case in range(cases)]  # parts of the run
    chance.shuffle(moments)
    sent, slowest, tries, out = 0, 0.0, 0, None
    while sent < cases:
        tries += 1
        assert tries <= 4 * cases + 4, "it always ends before the signal"
        if out is None or (not command.onto and set(files_of(out)) == set(wanted.files)):
            out, takes = case(), wanted.seconds
            command.prepare(given, out)
        running = Running.start(command, given, out)
        after = moments[sent] * takes
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.process.wait(running.started + after - time.monotonic())
            takes = time.monotonic() - running.started  # it has less to do, or a quieter machine
        hit = running.signal(number)
        ended = running.end()
        where = f"{command.name}, signal {number} after {after:.3f} s of {takes:.3f}"
        if number == signal.SIGKILL and ended.code == 0:
            hit = False  # it ended between the look and the signal
        sent += hit
        try:
            if hit:
                slowest = max(slowest, ended.seconds)
                judge(ended, out)
            check_whole(out, wanted, fixed=command.fixed)
            if hit and sent % every == 0:
                # At once, as an impatient user would, though a child may still be on its way out.
                completes(command, given, out, wanted)
                assert not running.left(), "processes are left"
                if sent % (2 * every) == 0:  # every other time it goes on over a finished one
                    out = None
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}\n{ended}") from error
    return sent, slowest


def test_sigkill(command, given, undisturbed, case, count):
    def judge(ended: Ended, out) -> None:
        assert ended.code == -signal.SIGKILL
        assert "Traceback" not in ended.err

    every = min(CASES, 5)
    sent, _ = disturb(command, signal.SIGKILL, CASES, given, undisturbed, case, judge, every=every)
    count(command.name, "SIGKILL", sent, f"then completed: {sent // every}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
def test_interrupted(command, number, given, undisturbed, case, count):
    early = 0

    def judge(ended: Ended, out) -> None:
        nonlocal early
        if ended.before_us(number):
            early += 1
            return
        error = ended.error()
        assert ended.code in (0, 130)
        assert ended.code == 0 or error == "Error: Interrupted."
        assert ended.seconds < SECONDS

    sent, slowest = disturb(command, number, FEW, given, undisturbed, case, judge)
    remark = f"slowest end {slowest:.1f} s; {early} while Python started"
    count(command.name, number.name, sent, remark)
