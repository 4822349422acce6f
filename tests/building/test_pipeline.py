"""The pipeline frees what it no longer needs, and its journal keeps what was finished."""

from __future__ import annotations

import dataclasses
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
from deployfold.errors import Interrupted
from deployfold.events import Event, Note, StageFinished, StageStarted
from deployfold.reporting.report import load_report
from deployfold.util.hooks import without_local_hooks


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


def test_an_error_that_hides_an_interrupt_is_an_interrupted_build(checkpoint: Path) -> None:
    def emit(event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage == "export":
            error = RuntimeError("half written")  # as torch.save raises it
            error.__context__ = KeyboardInterrupt()
            raise error

    with pytest.raises(Interrupted):
        build(spec_of(checkpoint, Precision.FP16), emit=emit)
    assert load_report(checkpoint.parent / "out").status.state == "interrupted"


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


class Recording(nn.Sequential):
    """A module that registers a function on the first forward, as transformers does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self[0]._forward_hooks:

            def record(module: nn.Module, args: object, output: object) -> None:
                pass

            self[0].register_forward_hook(record)
        return super().forward(x)


def test_hooks_that_a_file_cannot_hold_are_left_out_and_noted(tmp_path: Path) -> None:
    torch.save(Recording(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval(), tmp_path / "net.pt")
    spec = dataclasses.replace(spec_of(tmp_path / "net.pt"), trust=True)
    report, directory = build(spec)
    assert any("net.folded.pt is without 1 hooks" in note for note in report.notes)
    folded = torch.load(directory / "net.folded.pt", weights_only=False)
    assert not folded[0]._forward_hooks
    assert folded(torch.randn(1, 3, 8, 8)).shape == (1, 4, 6, 6)


class Holding:
    """A hook that holds the model's weights, as a bound method does."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, module: nn.Module, args: object, output: object) -> None:
        pass


def test_a_hook_is_judged_without_pickling_the_model_that_it_holds() -> None:
    class Unpicklable(nn.Linear):
        def __reduce__(self) -> str:
            raise AssertionError("the weights were pickled for a hook")

    module = Unpicklable(2, 2)
    module.register_forward_hook(Holding(module))
    with without_local_hooks(module) as left_out:
        assert left_out == 0
        assert len(module._forward_hooks) == 1
    module.register_forward_hook(lambda *given: None)
    with without_local_hooks(module) as left_out:
        assert left_out == 1
        assert len(module._forward_hooks) == 1
    assert len(module._forward_hooks) == 2
