"""From artifacts to the rows of the report: run them, time them, compare them with the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from deployfold.config.spec import BuildSpec
from deployfold.errors import MeasureError
from deployfold.events import Emit, ignore, part_of
from deployfold.measuring.accuracy import compare
from deployfold.measuring.cold_start import cold_start, kind_of
from deployfold.measuring.environment import default_threads
from deployfold.measuring.feeds import compare_over
from deployfold.measuring.kept import Kept, keep
from deployfold.measuring.latency import measure
from deployfold.measuring.results import Measured, MeasurementInterrupted, Measurements
from deployfold.measuring.sweep import sweep
from deployfold.reporting.model import Accuracy, BatchPoint, ColdStart, Int8Summary, Latency, Row
from deployfold.runtimes.protocol import Runner

Inputs = tuple[torch.Tensor, ...]


@dataclass(frozen=True, eq=False)
class Draft:
    """A row before anything was measured.

    Attributes:
        name, title: see :class:`deployfold.reporting.model.Row`.
        runner: how to run it; ``None`` if it was not made, and then ``not_measured`` says why.
        accuracy: where it was measured when the artifact was made, in a better way than by
            running it here.
        int8: of a row in INT8, as lowering left it.
    """

    name: str
    title: str
    runner: Runner | None = None
    path: Path | None = None
    parameters: int | None = None
    batchnorms: int | None = None
    bytes: int | None = None
    accuracy: Accuracy | None = None
    not_measured: str | None = None
    notes: tuple[str, ...] = ()
    int8: Int8Summary | None = None


@dataclass(frozen=True, eq=False)
class Extras:
    """What to measure beside latency and the outputs on the one input.

    Attributes:
        batches: batch sizes of a sweep; none by default.
        make_inputs: the inputs for a batch size; a sweep needs it.
        feeds: real inputs, one inference each, for the accuracy; the one input if empty.
        labels: the class of every sample of ``feeds``.
        cold_start: load and run every file once in fresh processes.
    """

    batches: tuple[int, ...] = ()
    make_inputs: Callable[[int], Inputs] | None = None
    feeds: tuple[Inputs, ...] = ()
    labels: tuple[int, ...] | None = None
    cold_start: bool = False


@dataclass
class _Found:
    """What the extras found so far, by row name; a measurement cut short keeps it."""

    accuracy: dict[str, Accuracy | str] = field(default_factory=dict)
    sweep: dict[str, tuple[BatchPoint, ...]] = field(default_factory=dict)
    cold_start: dict[str, ColdStart] = field(default_factory=dict)


class _Interrupted(MeasurementInterrupted):
    """Ctrl-C after the latency was measured."""

    def __init__(self, partial: Measurements, found: _Found) -> None:
        super().__init__(partial)
        self.found = found


def unmeasured_rows(drafts: Sequence[Draft], reason: str) -> tuple[Row, ...]:
    """The rows of a build that ended before they were measured."""
    return tuple(_row(draft, None, draft.accuracy, reason, _Found()) for draft in drafts)


def measure_rows(
    drafts: Sequence[Draft],
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
    threads = spec.threads or default_threads()
    found = _Found()
    with keep({draft.name: draft.runner for draft in drafts if draft.runner}) as runners:
        measurements = measure(
            runners,
            inputs,
            threads=threads,
            max_seconds=spec.max_seconds,
            seed=spec.seed,
            emit=emit,
        )
        try:
            _accuracy(runners, inputs, extras, found, emit)
            _sweep(runners, extras, spec, threads, found, emit)
        except KeyboardInterrupt:
            raise _Interrupted(measurements, found) from None
    try:
        if extras.cold_start:
            _cold_start(drafts, inputs, threads, found, emit)
    except KeyboardInterrupt:
        raise _Interrupted(measurements, found) from None
    return _rows(drafts, measurements, found)


def interrupted_rows(drafts: Sequence[Draft], stop: MeasurementInterrupted) -> tuple[Row, ...]:
    """The rows of a measurement that Ctrl-C cut short."""
    return _rows(drafts, stop.partial, stop.found if isinstance(stop, _Interrupted) else _Found())


def _accuracy(
    runners: Mapping[str, Kept], inputs: Inputs, extras: Extras, found: _Found, emit: Emit
) -> None:
    if extras.feeds or extras.labels is not None:
        results = compare_over(runners, extras.feeds or (inputs,), labels=extras.labels, emit=emit)
        found.accuracy = {
            name: one if isinstance(one, str) else Accuracy.model_validate(one)
            for name, one in results.items()
        }


def _sweep(
    runners: Mapping[str, Kept],
    extras: Extras,
    spec: BuildSpec,
    threads: int,
    found: _Found,
    emit: Emit,
) -> None:
    if extras.batches and extras.make_inputs:
        points = sweep(
            runners,
            extras.make_inputs,
            extras.batches,
            threads=threads,
            max_seconds=spec.max_seconds,
            seed=spec.seed,
            emit=emit,
        )
        found.sweep = {
            name: tuple(BatchPoint.model_validate(point) for point in row)
            for name, row in points.items()
        }


def _cold_start(
    drafts: Sequence[Draft], inputs: Inputs, threads: int, found: _Found, emit: Emit
) -> None:
    for index, draft in enumerate(drafts):
        kind = kind_of(draft.runner)
        if kind is not None and draft.path is not None:
            part = part_of(emit, index / len(drafts), 1 / len(drafts))
            result = cold_start(kind, draft.path, inputs, threads=threads, emit=part)
            found.cold_start[draft.name] = ColdStart.model_validate(result)


def _rows(drafts: Sequence[Draft], measurements: Measurements, found: _Found) -> tuple[Row, ...]:
    by_name = {row.name: row for row in measurements.rows}
    first = by_name.get(drafts[0].name)
    reference = None if first is None else first.outputs
    rows = []
    for draft in drafts:
        measured = by_name.get(draft.name)
        accuracy = draft.accuracy
        if draft.name in found.accuracy:
            result = found.accuracy[draft.name]
            accuracy = accuracy if isinstance(result, str) else result
        elif measured is not None and draft is not drafts[0] and reference and measured.outputs:
            try:
                accuracy = Accuracy.model_validate(compare(reference, measured.outputs))
            except MeasureError as error:  # other shapes: that costs this number alone
                found.accuracy[draft.name] = error.message
        rows.append(_row(draft, measured, accuracy, None, found))
    return tuple(rows)


def _row(
    draft: Draft,
    measured: Measured | None,
    accuracy: Accuracy | None,
    failure: str | None,
    found: _Found,
) -> Row:
    latency = None if measured is None or measured.latency is None else measured.latency
    reason = draft.not_measured or failure or (measured.not_measured if measured else None)
    result = found.accuracy.get(draft.name)
    notes = draft.notes if measured is None else (*draft.notes, *measured.notes)
    if isinstance(result, str) and latency is not None:
        notes = (*notes, f"accuracy not measured: {result}")
    return Row(
        name=draft.name,
        title=draft.title,
        artifact=None if draft.path is None else draft.path.name,
        parameters=draft.parameters,
        batchnorm_layers=draft.batchnorms,
        bytes=draft.bytes,
        latency=None if latency is None else Latency.of(latency),
        accuracy=accuracy,
        not_measured=reason if latency is None else None,
        notes=notes,
        sweep=found.sweep.get(draft.name, ()),
        cold_start=found.cold_start.get(draft.name),
        int8=draft.int8,
    )
