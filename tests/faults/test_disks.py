"""A disk that is full, read-only or another one gives one sentence and complete files; a second run
works.
"""

from __future__ import annotations

import os
import random
import re

import pytest
from fault_commands import FEW, Command, Ended, run
from fault_whole import check_whole, files_of, hashes, temporaries
from test_signals import completes

pytestmark = pytest.mark.slow
LARGE, PAGE = "size=64m", 4096


def room(place) -> int:
    """The bytes that a disk has in use."""
    about = os.statvfs(place)
    return (about.f_blocks - about.f_bfree) * about.f_frsize


def failed(command: Command, ended: Ended, reason: str) -> None:
    """The error says that the file was not written, and why."""
    if command.name == "sweep" and ended.code == 11:
        ended.error()  # the table and sweep.json have the reasons
    elif command.name == "unpack" and ended.code == 10:
        assert re.search("needs .*, but .* are free", ended.error())
    else:
        assert ended.code == 2, ended
        assert "Cannot write" in ended.error()
        assert reason in ended.err


def test_full(command, given, undisturbed, disk, count):
    """Full at sizes from nothing to somewhat more than all that the command writes."""
    wanted = undisturbed(command)
    chance, full = random.Random(command.name), 0
    for case in range(FEW):
        out = disk(LARGE) / "out"
        out.with_name("filler").write_bytes(bytes(PAGE))  # a disk of 0 bytes would have no limit
        command.prepare(given, out)
        before = room(out)
        more = (case + chance.random() * bool(case)) / FEW * 1.5 * wanted.bytes
        disk(f"size={before + int(more)}")
        try:
            ended = run(command, given, out)
            full += ended.code != 0
            if ended.code:
                failed(command, ended, "No space left on device")
            else:
                assert ended.error() == ""
            check_whole(out, wanted, fixed=command.fixed)
            assert temporaries(out) == []
            disk(LARGE)
            completes(command, given, out, wanted)
        except AssertionError as error:
            raise AssertionError(f"{before} and {more:.0f} bytes: {error}\n{ended}") from error
        disk(None)
    assert full, "it was never full"
    count(command.name, "full disk", FEW, f"{full} did not fit")


def test_read_only(command, given, undisturbed, disk, count):
    wanted = undisturbed(command)
    out = disk(LARGE) / "out"
    command.prepare(given, out)
    before = hashes(out)
    disk("ro")
    failed(command, run(command, given, out), "Read-only file system")
    disk("rw")
    assert hashes(out) == before
    assert temporaries(out) == []
    completes(command, given, out, wanted)
    disk("ro")  # and over what is there
    there = hashes(out)
    ended = run(command, given, out)
    if command.onto:
        failed(command, ended, "Read-only file system")
    assert hashes(out) == there
    count(command.name, "read-only directory", 2)


def test_other_file_system(command, given, undisturbed, disk, tmp_path, count):
    """The case covers links: a rename must not cross file systems."""
    wanted = undisturbed(command)
    place = disk(LARGE)
    link = tmp_path / "link"
    link.symlink_to(place / "linked")
    (place / "linked").mkdir()
    for out in (place / "out", link):
        command.prepare(given, out)
        ended = run(command, given, out)
        assert (ended.code, ended.error()) == (0, ""), ended
        assert set(files_of(out)) == set(wanted.files)
        check_whole(out, wanted, fixed=command.fixed)
        assert temporaries(out) == []
    count(command.name, "another file system", 2)
