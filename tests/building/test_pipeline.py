"""The pipeline holds no more than it needs, and its journal tells what was finished."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from torch import nn

from deployfold.building.artifact import Artifact
from deployfold.building.journal import Journal
from deployfold.building.pipeline import build
from deployfold.config.build_spec import BuildSpec
from deployfold.config.inputs import InputSpec
from deployfold.config.precision import Precision
from deployfold.events import Event, Note, StageFinished, StageStarted
from deployfold.reporting.report import load_report


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    torch.save(net.eval(), tmp_path / "net.pt")
    return tmp_path / "net.pt"


def spec_of(checkpoint: Path, *precisions: Precision) -> BuildSpec:
    return BuildSpec(
        source=str(checkpoint),
        output=checkpoint.parent / "out",
        inputs=InputSpec.parse(["1x3x8x8"]),
        precisions=precisions,
        engine=False,
        measure=False,
    )


def convolutions() -> int:
    gc.collect()
    return sum(isinstance(item, nn.Conv2d) for item in gc.get_objects())


def test_both_models_are_freed_before_lowering_where_nothing_is_measured(checkpoint: Path) -> None:
    """Large models need that memory for their ONNX."""
    before, during = convolutions(), []

    def emit(event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage == "lower":
            during.append(convolutions())

    build(spec_of(checkpoint, Precision.FP16), emit=emit)
    assert during == [before]


@pytest.mark.parametrize(
    ("stage", "rows"),
    [("fold", 0), ("export", 2), ("lower", 5)],
)
@pytest.mark.parametrize("end", [KeyboardInterrupt, ValueError])
def test_a_build_that_stops_reports_what_was_finished(
    checkpoint: Path, stage: str, rows: int, end: type[BaseException]
) -> None:
    def emit(event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage == stage:
            raise end("stopped here")

    with pytest.raises(end):
        build(spec_of(checkpoint, Precision.FP16), emit=emit)
    report = load_report(checkpoint.parent / "out")
    state = "interrupted" if end is KeyboardInterrupt else "failed"
    assert (report.status.state, report.status.stage) == (state, stage)
    assert len(report.rows) == rows
    assert all(row.not_measured for row in report.rows)
    assert (report.fold is None) == (stage == "fold")


def test_the_journal_keeps_notes_once_and_times_finished_stages() -> None:
    events: list[Event] = []
    journal = Journal(events.append)
    with journal.running("fold", "tracing") as stage:
        stage.result("one folded")
        stage.result("one left")
        journal.note(["a", "b", "a"])
    with pytest.raises(ValueError), journal.running("export", "ONNX"):  # noqa: PT011
        raise ValueError
    assert journal.notes == ["a", "b"]
    assert [event.text for event in events if isinstance(event, Note)] == ["a", "b"]
    assert [event.summary for event in events if isinstance(event, StageFinished)] == [
        "one folded; one left"
    ]
    assert [cost.stage for cost in journal.stages] == ["fold"]
    assert journal.stage == "export"


def test_an_artifact_that_was_not_made_has_no_file() -> None:
    artifact = Artifact("tensorrt-fp16", "TensorRT fp16", not_measured="no GPU")
    with pytest.raises(ValueError, match="tensorrt-fp16 was not made: no GPU"):
        _ = artifact.file
