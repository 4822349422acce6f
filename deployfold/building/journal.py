"""The journal of one build, from which an interrupted build makes its report.

The journal is the only object with state in a build. The stages write to the journal and never read
it. The journal times the stages, forwards their events, and keeps notes and finished artifacts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from deployfold.events import Emit, Note, StageFinished, StageStarted, ignore
from deployfold.reporting.conditions import StageCost
from deployfold.reporting.row import Row
from deployfold.util.grouping import grouped
from deployfold.util.memory import forget_peak, peak_bytes, release

from .artifact import Artifact


class StageLog:
    """The summary of a running stage, and the memory of its child processes."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.child_peak = 0
        """The greatest memory in bytes of a process that the stage started."""

    def result(self, sentence: str) -> None:
        """Add a sentence to the stage's summary."""
        self.sentences.append(sentence)


class Journal:
    """The finished parts of a build.

    Attributes:
        stage: the name of the running stage, or of the last one.
        artifacts: the finished artifacts, in the order of the table.
        rows: the measured rows; empty before the measurement.
        notes: sentences for the report, without repetitions.
        stages: time and memory of each finished stage.
    """

    def __init__(self, emit: Emit = ignore) -> None:
        self.emit = emit
        self.stage = "load"
        self.artifacts: list[Artifact] = []
        self.rows: tuple[Row, ...] = ()
        self.notes: list[str] = []
        self.stages: list[StageCost] = []

    @contextmanager
    def running(self, stage: str, detail: str) -> Iterator[StageLog]:
        """Announce a stage, time it, and report its time and memory at the end."""
        self.stage = stage
        self.emit(StageStarted(stage, detail))
        start = time.perf_counter()
        release()  # the memory that the previous stage freed
        forget_peak()
        log = StageLog()
        yield log
        seconds, peak = time.perf_counter() - start, peak_bytes()
        if peak is not None:
            peak += log.child_peak
        self.stages.append(StageCost(stage=stage, seconds=seconds, peak_bytes=peak))
        self.emit(StageFinished(stage, "; ".join(log.sentences), seconds, peak))

    def keep(self, artifact: Artifact) -> Artifact:
        """Keep an artifact for the report: a finished one, or one that could not be made."""
        self.artifacts.append(artifact)
        return artifact

    def note(self, sentences: Sequence[str], *, level: str = "info") -> None:
        """Keep sentences for the report, each once, and show them now, those of one kind joined."""
        new = [one for one in dict.fromkeys(sentences) if one not in self.notes]
        self.notes += new
        for sentence in grouped(new):
            self.emit(Note(sentence, level))

    def warn(self, sentence: str) -> None:
        """Emit a warning that the report already has in a row or in its status."""
        self.emit(Note(sentence, "warning"))

    def forget_runners(self) -> None:
        """Drop the runners, and with them the models in memory."""
        self.artifacts = [replace(artifact, runner=None) for artifact in self.artifacts]
