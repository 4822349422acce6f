"""The live line of a running pipeline."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console

from deployfold.cli.progress import Progress
from deployfold.events import Note, StageFinished, StageProgress, StageStarted


def test_a_stage_that_is_over_leaves_its_line_alone():
    """Text printed directly afterwards, such as the table, must not follow an outdated line."""
    stream = io.StringIO()
    with Progress(Console(file=stream, force_terminal=True, width=80)) as progress:
        progress.show(StageStarted("measure", "warming up"))
        progress.show(StageProgress("measure", "warming up onnxruntime", 0.9))
        progress.show(StageFinished("measure", "5 of 5 rows measured", 1.0))
        after = stream.getvalue().rpartition("5 of 5 rows measured")[2]
    assert "warming up" in stream.getvalue()
    assert "warming up" not in after


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_stage_takes_one_line_with_its_times(width: int):
    """A long description is shortened: a wrapped line would leave its rest on the screen."""
    stream = io.StringIO()
    detail = "int8: what backbone.stage3.block27.attention.qkv_projection costs in 193 pictures"
    with Progress(Console(file=stream, force_terminal=True, width=width, color_system=None)) as one:
        one.show(StageStarted("lower", detail))
        for done in (0.2, 0.4):
            time.sleep(0.02)
            one.show(StageProgress("lower", detail, done))
        one._live.refresh()
    frames = [part for part in re.split(r"\x1b\[2K|\r", stream.getvalue()) if "lower" in part]
    line = frames[-1].split("\n")[0].rstrip()
    assert len(line) <= width
    assert re.search(r"int8: what .*… .*0:00:00 about 1 s left$", line), frames[-1]


@pytest.mark.parametrize("terminal", [True, False])
def test_what_does_not_fit_goes_below_the_beginning(terminal: bool):
    """On a terminal alone: a log gets one line for a stage and one for a warning."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=60, color_system=None)
    words = "20 of 20 BatchNorm layers folded, 4,800 parameters fewer, same function in float64"
    with Progress(console) as progress:
        progress.show(StageFinished("fold", words, 1.5))
        progress.show(Note(words, "warning"))
    lines = re.sub(r"\x1b\[[?\d]*[a-zA-Z]|\r", "", stream.getvalue()).splitlines()
    if not terminal:
        assert lines == [f"✓ fold        {words}  1.5 s", f"! {words}"]
        return
    lines = [line for line in lines if line]
    assert [len(line) - len(line.lstrip(" ")) for line in lines] == [0, 14, 14, 0, 2]
    assert max(map(len, lines)) <= 60
    assert " ".join(line.strip("✓! ") for line in lines).split() == (
        ["fold", *words.split(), "1.5", "s", *words.split()]
    )
