"""Turns artifacts into rows of the report: runs them, times them, compares their outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch

from deployfold.config.build_spec import BuildSpec
from deployfold.data.labels import Label
from deployfold.errors import MeasureError
from deployfold.events import Emit, ignore, part_of
from deployfold.measuring.accuracy import compare, not_judged
from deployfold.measuring.batch_sweep import sweep_batches
from deployfold.measuring.cold_start import cold_start, opened_file
from deployfold.measuring.dataset_accuracy import compare_over
from deployfold.measuring.latency import measure
from deployfold.measuring.measurements import Measured, MeasurementInterrupted, Measurements
from deployfold.measuring.shared_runners import shared
from deployfold.reporting.layers import LayerTimes
from deployfold.reporting.row import Accuracy, BatchPoint, ColdStart, Row
from deployfold.runtimes.device import is_gpu
from deployfold.runtimes.device_choice import torch_tf32
from deployfold.scoring import Scoring

from .artifact import Artifact
from .settings import run_settings

Inputs: TypeAlias = tuple[torch.Tensor, ...]
"""One tensor for each input of the model."""


@dataclass(frozen=True, eq=False)
class Extras:
    """The measurements beside latency and the outputs on the one input.

    Attributes:
        batches: batch sizes of a sweep; none by default.
        make_inputs: the inputs for a batch size; a sweep needs it.
        feeds: real inputs, one inference each, for the accuracy; the one input if empty.
        labels: the label of every sample of ``feeds``.
        scoring: the task metrics of every row, on ``feeds``.
        cold_start: load and run every file once in fresh processes.
        layers: the time of each layer, in the runtimes that tell it.
    """

    batches: tuple[int, ...] = ()
    make_inputs: Callable[[int], Inputs] | None = None
    feeds: tuple[Inputs, ...] = ()
    labels: tuple[Label, ...] | None = None
    scoring: Scoring | None = None
    cold_start: bool = False
    layers: bool = False


@dataclass
class _Found:
    """The results of the extras so far, by row name, which an interruption keeps."""

    accuracy: dict[str, Accuracy | str] = field(default_factory=dict)
    scores: dict[str, dict[str, float] | str] = field(default_factory=dict)
    sweep: dict[str, tuple[BatchPoint, ...]] = field(default_factory=dict)
    cold_start: dict[str, ColdStart] = field(default_factory=dict)
    layers: dict[str, LayerTimes] = field(default_factory=dict)


class _Interrupted(MeasurementInterrupted):
    """Ctrl-C after the latency was measured."""

    def __init__(self, partial: Measurements, found: _Found) -> None:
        super().__init__(partial)
        self.found = found


def rows_measured(rows: Sequence[Row]) -> str:
    """The result of a measurement in one phrase."""
    return f"{sum(row.latency is not None for row in rows)} of {len(rows)} rows measured"


def unmeasured_rows(artifacts: Sequence[Artifact], reason: str) -> tuple[Row, ...]:
    """The rows of artifacts that are not measured, for one reason."""
    return tuple(
        _row(artifact, None, artifact.accuracy, reason, _Found()) for artifact in artifacts
    )


def measure_rows(
    artifacts: Sequence[Artifact],
    inputs: Inputs,
    spec: BuildSpec,
    *,
    extras: Extras | None = None,
    emit: Emit = ignore,
) -> tuple[Row, ...]:
    """Time every row in interleaved rounds and compare its outputs with the first row's.

    Raises:
        MeasurementInterrupted: Ctrl-C; see :func:`interrupted_rows`.
        MeasureError: the labels do not fit the samples.
    """
    extras = extras or Extras()
    settings, found = run_settings(spec), _Found()
    rounding = torch_tf32(settings.tf32) if is_gpu(settings.device) else nullcontext()
    made = {artifact.name: artifact.runner for artifact in artifacts if artifact.runner}
    with rounding, shared(made) as runners:
        measurements = measure(
            runners,
            inputs,
            threads=settings.threads,
            max_seconds=spec.max_seconds,
            seed=spec.seed,
            device=settings.device,
            emit=emit,
        )
        try:
            if extras.feeds or extras.labels is not None:
                compared = compare_over(
                    runners,
                    extras.feeds or (inputs,),
                    labels=extras.labels,
                    scoring=extras.scoring,
                    emit=emit,
                )
                found.accuracy, found.scores = compared.accuracy, compared.scores
            if extras.batches and extras.make_inputs:
                found.sweep = sweep_batches(
                    runners,
                    extras.make_inputs,
                    extras.batches,
                    threads=settings.threads,
                    max_seconds=spec.max_seconds,
                    seed=spec.seed,
                    emit=emit,
                )
        except KeyboardInterrupt:
            raise _Interrupted(measurements, found) from None
    try:
        if extras.cold_start:
            _cold_start(artifacts, inputs, settings.threads, found, emit)
        if extras.layers:
            _layer_times(artifacts, inputs, found, emit)
    except KeyboardInterrupt:
        raise _Interrupted(measurements, found) from None
    return _rows(artifacts, measurements, found)


def interrupted_rows(
    artifacts: Sequence[Artifact], stop: MeasurementInterrupted
) -> tuple[Row, ...]:
    """The rows of a measurement that Ctrl-C interrupted."""
    return _rows(
        artifacts, stop.partial, stop.found if isinstance(stop, _Interrupted) else _Found()
    )


def _cold_start(
    artifacts: Sequence[Artifact], inputs: Inputs, threads: int | None, found: _Found, emit: Emit
) -> None:
    for index, artifact in enumerate(artifacts):
        opened = opened_file(artifact.runner)
        if opened is not None and artifact.path is not None:
            part = part_of(emit, index / len(artifacts), 1 / len(artifacts))
            settings = replace(opened[1], threads=threads)
            found.cold_start[artifact.name] = cold_start(
                opened[0], artifact.path, inputs, settings=settings, emit=part
            )


def _layer_times(artifacts: Sequence[Artifact], inputs: Inputs, found: _Found, emit: Emit) -> None:
    for artifact in artifacts:
        from deployfold.measuring.layer_times import layer_times  # imports onnx

        times = layer_times(artifact.runner, inputs, emit=emit)
        if times is not None:
            found.layers[artifact.name] = times


def _rows(
    artifacts: Sequence[Artifact], measurements: Measurements, found: _Found
) -> tuple[Row, ...]:
    by_name = {row.name: row for row in measurements.rows}
    first = by_name.get(artifacts[0].name)
    reference = None if first is None else first.outputs
    rows = []
    for artifact in artifacts:
        measured = by_name.get(artifact.name)
        accuracy = artifact.accuracy
        if artifact.name in found.accuracy:
            result = found.accuracy[artifact.name]
            accuracy = accuracy if isinstance(result, str) else result
        elif (
            measured is not None and artifact is not artifacts[0] and reference and measured.outputs
        ):
            try:
                accuracy = compare(reference, measured.outputs)
            except MeasureError as error:  # different shapes: only the accuracy is missing
                found.accuracy[artifact.name] = error.message
        rows.append(_row(artifact, measured, accuracy, None, found))
    about = dict.fromkeys((*rows[0].notes, *not_judged(reference or ())))
    return (rows[0].model_copy(update={"notes": tuple(about)}), *rows[1:])


def _row(
    artifact: Artifact,
    measured: Measured | None,
    accuracy: Accuracy | None,
    failure: str | None,
    found: _Found,
) -> Row:
    latency = None if measured is None else measured.latency
    reason = artifact.not_measured or failure or (measured.not_measured if measured else None)
    result = found.accuracy.get(artifact.name)
    notes = artifact.notes if measured is None else (*artifact.notes, *measured.notes)
    if isinstance(result, str) and latency is not None:
        notes = (*notes, f"accuracy not measured: {result}")
    scores = found.scores.get(artifact.name, artifact.scores)
    if isinstance(scores, str):
        if latency is not None:
            notes = (*notes, f"task metric not measured: {scores}")
        scores = {}
    return Row(
        name=artifact.name,
        title=artifact.title,
        artifact=None if artifact.path is None else artifact.path.name,
        parameters=artifact.parameters,
        batchnorm_layers=artifact.batchnorms,
        bytes=artifact.bytes,
        latency=latency,
        accuracy=accuracy,
        scores=dict(scores),
        not_measured=reason if latency is None else None,
        notes=notes,
        sweep=found.sweep.get(artifact.name, ()),
        cold_start=found.cold_start.get(artifact.name),
        quantization=artifact.quantization,
        engine_layers=artifact.engine_layers,
        layer_times=found.layers.get(artifact.name),
        fixed_batch=artifact.fixed_batch,
    )
