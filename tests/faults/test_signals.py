"""SIGKILL, Ctrl-C and SIGTERM at any moment: what is there is whole, and a second run completes."""

from __future__ import annotations

import random
import signal
import time

import pytest
from fault_commands import CASES, FEW, Command, Ended, Running, run
from fault_whole import check_whole, files_of, temporaries

pytestmark = pytest.mark.slow
SECONDS = 5.0
"""In which Ctrl-C must have ended a command; a torch call in C++ is not interrupted earlier."""


def completes(command: Command, given, out, wanted) -> None:
    """The same command again ends as if nothing had been, and leaves what an undisturbed run does.

    The exception is unpack: where the first run had come to its end, it refuses to do it again.
    """
    there = command.name == "unpack" and files_of(out)
    done = run(command, given, out)
    said = done.said()
    assert done.code == (2 if there else 0), done.err
    assert not there or "is not empty" in said
    assert set(files_of(out)) == set(wanted.files)
    check_whole(out, wanted, fixed=command.fixed)
    assert temporaries(out) == []


def disturb(command, number, cases, given, undisturbed, case, judge) -> tuple[int, float]:
    """Send ``number`` at ``cases`` moments spread over the run; returns cases and slowest end."""
    wanted = undisturbed(command)
    chance = random.Random(f"{command.name} {number}")
    sent, slowest, tries, out = 0, 0.0, 0, None
    while sent < cases:
        tries += 1
        assert tries <= 4 * cases + 4, "it always ends before the signal"
        if out is None or not command.onto or tries % 2:  # every other case over a finished one
            out = case()
            command.prepare(given, out)
        moment = (sent + chance.random()) / cases * wanted.seconds
        running = Running.start(command, given, out)
        time.sleep(max(0.0, running.started + moment - time.monotonic()))
        hit = running.signal(number)
        ended = running.end()
        sent += hit
        where = f"{command.name}, signal {number} after {moment:.3f} s of {wanted.seconds:.3f}"
        try:
            if hit:
                slowest = max(slowest, ended.seconds)
                judge(ended, out)
            check_whole(out, wanted, fixed=command.fixed)
            # At once, as an impatient user would, though a child may still be on its way out.
            completes(command, given, out, wanted)
            assert not running.left(), "processes are left"
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}\n{ended}") from error
    return sent, slowest


def test_sigkill(command, given, undisturbed, case, count):
    def judge(ended: Ended, out) -> None:
        assert ended.code == -signal.SIGKILL
        assert "Traceback" not in ended.err

    sent, _ = disturb(command, signal.SIGKILL, CASES, given, undisturbed, case, judge)
    count(command.name, "SIGKILL", sent, "at random moments")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
def test_interrupted(command, number, given, undisturbed, case, count):
    early = 0

    def judge(ended: Ended, out) -> None:
        nonlocal early
        if ended.before_us(number):
            early += 1
            return
        said = ended.said()
        assert ended.code in (0, 130)
        assert ended.code == 0 or said == "Error: Interrupted."
        assert ended.seconds < SECONDS

    sent, slowest = disturb(command, number, FEW, given, undisturbed, case, judge)
    remark = f"slowest end {slowest:.1f} s; {early} while Python started"
    count(command.name, number.name, sent, remark)
