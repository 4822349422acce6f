"""A closed stdout, a full disk, a pipe without a reader: the right exit code, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cli_runs import DEPLOYFOLD, environment, fails
from report_sample import full_report

from deployfold.errors import ExitCode

pytestmark = pytest.mark.skipif(os.name != "posix", reason="closes file descriptors")
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
WORDS = (
    ("targets",), ("targets", "--json"), ("build", "--help-all"), ("--version",),
    ("profile", "show", "latency"), ("report", "--schema"),
)  # fmt: skip
"""Commands that print at once: tables, JSON, help, and what a callback prints."""
BEFORE = "import sys\nfrom deployfold.cli.session import session\n"
"""For commands in miniature, since real ones take longer than a pipe's buffer is worth."""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def unread() -> Iterator[int]:
    """The write end of a pipe whose reader is gone, as after ``| head -2``."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def start(words: tuple[str, ...], **streams: Any) -> subprocess.CompletedProcess[str]:
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    done = subprocess.run(words, env=environment(), text=True, check=False, **{**piped, **streams})
    done.stdout, done.stderr = done.stdout or "", done.stderr or ""
    return done


def python(code: str, **streams: Any) -> subprocess.CompletedProcess[str]:
    return start((sys.executable, "-c", BEFORE + code), **streams)


def closing(descriptor: int) -> Callable[[], None]:
    return lambda: os.close(descriptor)


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_a_reader_that_went_away_causes_no_error(words, unread):
    done = start((DEPLOYFOLD, *words), stdout=unread)
    assert (done.returncode, done.stderr) == (0, "")


@FULL
@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_output_to_a_full_disk_is_an_error(words):
    with Path("/dev/full").open("w") as full:
        done = start((DEPLOYFOLD, *words), stdout=full)
    fails(done, 2, "Cannot write", "No space left on device")


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_with_a_closed_stdout_nothing_is_printed(words):
    done = start((DEPLOYFOLD, *words), preexec_fn=closing(1))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@FULL
@pytest.mark.parametrize("words", [("targets",), ("report", "nothing"), ("build", "--nothing")])
def test_a_useless_stderr_changes_no_exit_code(words, unread):
    expected = start((DEPLOYFOLD, *words))
    with ExitStack() as stack:
        full = stack.enter_context(Path("/dev/full").open("w"))
        for streams in ({"stderr": unread}, {"stderr": full}, {"preexec_fn": closing(2)}):
            done = start((DEPLOYFOLD, *words), **streams)
            assert (done.returncode, done.stdout) == (expected.returncode, expected.stdout)


def test_a_verdict_outlives_its_reader(unread):
    """``deployfold compare … | head -2`` fails where it would have failed."""
    code = (
        "from deployfold.errors import ThresholdError\n"
        "with session() as run:\n"
        "    run.out.print('x' * 200_000)\n    run.out.file.write('y' * 200_000)\n"
        "    raise ThresholdError('Too slow.')\n"
    )
    done = python(code, stdout=unread)
    fails(done, ExitCode.THRESHOLD, "Too slow.")


def test_work_goes_on_when_nobody_reads_the_progress(unread, tmp_path):
    done = python(
        "from deployfold.events import Note, StageFinished, StageStarted\n"
        "with session() as run:\n"
        "    for _ in range(99):\n"
        "        run.emit(StageStarted('fold', 'x'))\n"
        "        run.emit(Note('y' * 2000, 'warning'))\n"
        "        run.emit(StageFinished('fold', 'z', 1.0))\n"
        f"    open({str(tmp_path / 'made')!r}, 'w').write('whole')\n"
        "    run.out.print('done')\n",
        stderr=unread,
    )
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert (tmp_path / "made").read_text() == "whole"


@FULL
def test_a_short_output_is_written_before_the_command_ends_well():
    """Less than a buffer: only the flush shows that it cannot be written."""
    with Path("/dev/full").open("w") as full:
        done = python(
            "with session(json=True) as run:\n    run.out.file.write('{}')\n", stdout=full
        )
    fails(done, 2, "Cannot write the output")


def test_a_file_never_takes_the_place_of_a_closed_stdout(tmp_path):
    """Libraries print on descriptor 1, whatever it leads to."""
    code = (
        "import os, sys\nfrom deployfold.cli import streams\n"
        "streams.open_closed_streams()\n"
        f"file = open({str(tmp_path / 'artifact')!r}, 'w')\n"
        "os.write(1, b'chatter')\nsys.exit(file.fileno() < 3)\n"
    )
    done = start((sys.executable, "-c", code), preexec_fn=closing(1))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "artifact").read_text() == ""


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
@pytest.mark.parametrize("columns", ["80", "120"])
def test_an_encoding_without_our_signs_gets_others_like_them(encoding, columns, tmp_path):
    (tmp_path / "report.json").write_text(full_report().to_json(), encoding="utf-8")
    words = (DEPLOYFOLD, "report", str(tmp_path), "--layers")
    changes = {"PYTHONIOENCODING": encoding, "COLUMNS": columns}
    plain = {**environment(), "COLUMNS": columns}
    expected = subprocess.run(words, env=plain, capture_output=True, check=True)
    done = subprocess.run(words, env={**plain, **changes}, capture_output=True, check=True)
    assert done.stderr == b""
    shown, lines = done.stdout.decode(encoding), expected.stdout.decode().splitlines()
    assert "?" not in shown
    assert "~ [0.99, 1.02]" in shown
    assert ("2.06×" if encoding == "cp1252" else "2.06x") in shown
    wrapped = [line for line in shown.splitlines() if str(tmp_path) not in line]
    assert max(map(len, wrapped)) <= int(columns)
    assert len(shown.splitlines()) == len(lines)  # nothing wraps differently
    as_json = subprocess.run((*words[:3], "--json"), env={**plain, **changes}, capture_output=True)
    assert as_json.stdout.decode("utf-8") == full_report().to_json()
