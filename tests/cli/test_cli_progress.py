"""The live line of a running pipeline."""

from __future__ import annotations

import io

from rich.console import Console

from deployfold.cli.progress import Progress
from deployfold.events import StageFinished, StageProgress, StageStarted


def test_a_stage_that_is_over_leaves_its_line_alone():
    """What is printed at once after it, as the table is, would stand below a line of the past."""
    stream = io.StringIO()
    with Progress(Console(file=stream, force_terminal=True, width=80)) as progress:
        progress.show(StageStarted("measure", "warming up"))
        progress.show(StageProgress("measure", "warming up onnxruntime", 0.9))
        progress.show(StageFinished("measure", "5 of 5 rows measured", 1.0))
        after = stream.getvalue().rpartition("5 of 5 rows measured")[2]
    assert "warming up" in stream.getvalue()
    assert "warming up" not in after
