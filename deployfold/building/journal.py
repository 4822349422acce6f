"""The journal of one build: what it reports if it is interrupted.

The journal is the only thing with state in a build. Stages write to it and never read it: it times
them, passes their events on, and keeps the notes and the artifacts that are finished.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from deployfold.events import Emit, Note, StageFinished, StageStarted, ignore
from deployfold.reporting.report import Row, StageCost
from deployfold.util.grouping import grouped
from deployfold.util.memory import forget_peak, peak_bytes, release

from .artifact import Artifact


class StageLog:
    """The stage under way: sentences that sum it up, and the memory of its child processes."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.child_peak = 0
        """Bytes: the greatest memory of a process that the stage started."""

    def result(self, sentence: str) -> None:
        """Add a sentence to the summary that is shown when the stage is finished."""
        self.sentences.append(sentence)


class Journal:
    """What a build has finished so far.

    Attributes:
        emit: takes the events of the build.
        stage: the name of the stage under way, or of the last one.
        artifacts: in the order of the table.
        rows: the artifacts as measured; empty before the measurement.
        notes: sentences for the report, each once.
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
        """Announce a stage, time it, and say what it took once it is finished."""
        self.stage = stage
        self.emit(StageStarted(stage, detail))
        start = time.perf_counter()
        release()  # what the stage before has left
        forget_peak()
        log = StageLog()
        yield log
        seconds, peak = time.perf_counter() - start, peak_bytes()
        if peak is not None:
            peak += log.child_peak
        self.stages.append(StageCost(stage=stage, seconds=seconds, peak_bytes=peak))
        self.emit(StageFinished(stage, "; ".join(log.sentences), seconds, peak))

    def keep(self, artifact: Artifact) -> Artifact:
        """Add a finished artifact, or one that could not be made, to the report."""
        self.artifacts.append(artifact)
        return artifact

    def note(self, sentences: Sequence[str], *, level: str = "info") -> None:
        """Keep sentences for the report, each once, and show them now, those of one kind joined."""
        new = [one for one in dict.fromkeys(sentences) if one not in self.notes]
        self.notes += new
        for sentence in grouped(new):
            self.emit(Note(sentence, level))

    def warn(self, sentence: str) -> None:
        """Show a sentence now that the report has elsewhere, in a row or in its status."""
        self.emit(Note(sentence, "warning"))

    def forget_runners(self) -> None:
        """Let go of what would run the artifacts, and so of the models in memory."""
        self.artifacts = [replace(artifact, runner=None) for artifact in self.artifacts]
