"""One build under way: what it has made so far, and what it tells whoever watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import torch

from deployfold.building.artifact import Artifact
from deployfold.building.report import make_report, save_report
from deployfold.building.rows import unmeasured_rows
from deployfold.config.spec import BuildSpec, InputSpec
from deployfold.data.calibration import CalibrationData
from deployfold.events import Emit, Note, StageFinished, StageStarted
from deployfold.finish import Wanted
from deployfold.folding import FoldResult
from deployfold.loading import LoadedModel
from deployfold.reporting.model import Report, Row, StageCost, Status
from deployfold.util.memory import forget_peak, peak_bytes, release

Inputs: TypeAlias = tuple[torch.Tensor, ...]


@dataclass
class Run:
    """What a build has made so far; the report is written from it, however the build ends.

    Attributes:
        samples: inputs to run on, one inference each; the first is the one that is timed.
        labels: the classes of their samples, where they are known.
        input_data: where the samples are from, in one phrase.
        calibration: the data for INT8, FP8 and INT4.
        refusal: why one of these was refused, where it was.
        unfinished: engines that are to be built on their device.
        stages: what each took that is over.
    worker_peak: bytes, the greatest memory of a process that the stage under way has started.
    """

    spec: BuildSpec
    emit: Emit
    directory: Path
    stage: str = "load"
    loaded: LoadedModel | None = None
    inputs: InputSpec | None = None
    samples: tuple[Inputs, ...] = ()
    labels: tuple[int, ...] | None = None
    input_data: str = ""
    calibration: CalibrationData | None = None
    folded: FoldResult | None = None
    artifacts: list[Artifact] = field(default_factory=list)
    rows: tuple[Row, ...] = ()
    notes: list[str] = field(default_factory=list)
    refusal: str | None = None
    unfinished: list[Wanted] = field(default_factory=list)
    stages: list[StageCost] = field(default_factory=list)
    worker_peak: int = 0

    @property
    def name(self) -> str:
        """The model's name, which all artifacts begin with."""
        return self.loaded.name if self.loaded else ""

    @contextmanager
    def running(self, stage: str, detail: str) -> Iterator[Callable[[str], None]]:
        """Announce a stage; the yielded function takes the sentence that says what came of it."""
        self.stage = stage
        self.emit(StageStarted(stage, detail))
        start = time.perf_counter()
        release()  # what the stage before has left
        forget_peak()
        self.worker_peak = 0
        said: list[str] = []
        yield said.append
        seconds, peak = time.perf_counter() - start, peak_bytes()
        if peak is not None:
            peak += self.worker_peak
        self.stages.append(StageCost(stage=stage, seconds=seconds, peak_bytes=peak))
        self.emit(StageFinished(stage, "; ".join(said), seconds, peak))

    def forget_modules(self) -> None:
        """Let go of the original and the folded model, which nothing runs any more."""
        assert self.loaded is not None
        assert self.folded is not None
        self.loaded = replace(self.loaded, module=torch.nn.Identity())
        self.folded = replace(self.folded, model=torch.nn.Identity())
        self.artifacts = [replace(draft, runner=None) for draft in self.artifacts]

    def note(self, sentences: Sequence[str], *, level: str = "info") -> None:
        """Keep sentences for the report, and show them now; each once."""
        for sentence in sentences:
            if sentence not in self.notes:
                self.notes.append(sentence)
                self.emit(Note(sentence, level))

    def save(self, status: Status) -> Report:
        """Write the report of everything finished so far; the model must be loaded."""
        assert self.loaded is not None
        assert self.inputs is not None
        stopped = status.state != "complete"
        reason = f"the build stopped at {self.stage}" if stopped else "no measurement was asked for"
        rows = self.rows or unmeasured_rows(self.artifacts, reason)
        report = make_report(
            self.spec,
            self.loaded,
            self.inputs,
            self.folded,
            rows,
            self.notes,
            status,
            input_data=self.input_data,
            stages=self.stages,
        )
        save_report(report, self.directory)
        return report
