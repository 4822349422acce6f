"""From artifacts to the rows of the report: run them, time them, compare them with the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from deployfold.events import Emit, ignore
from deployfold.measure.accuracy import compare
from deployfold.measure.environment import default_threads
from deployfold.measure.latency import measure
from deployfold.measure.protocol import Runner
from deployfold.measure.results import Measured, MeasurementInterrupted, Measurements
from deployfold.report.model import Accuracy, Latency, Row
from deployfold.spec import BuildSpec

Inputs = tuple[torch.Tensor, ...]


@dataclass(frozen=True, eq=False)
class Draft:
    """A row before anything was measured.

    Attributes:
        name, title: see :class:`deployfold.report.model.Row`.
        runner: how to run it; ``None`` if it was not made, and then ``not_measured`` says why.
        accuracy: where it was measured when the artifact was made, in a better way than by
            running it here.
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


def unmeasured_rows(drafts: Sequence[Draft], reason: str) -> tuple[Row, ...]:
    """The rows of a build that ended before they were measured."""
    return tuple(_row(draft, None, draft.accuracy, reason) for draft in drafts)


def measure_rows(
    drafts: Sequence[Draft], inputs: Inputs, spec: BuildSpec, *, emit: Emit = ignore
) -> tuple[Row, ...]:
    """Time every row in interleaved rounds and compare its outputs with the first row's.

    Raises:
        MeasurementInterrupted: Ctrl-C; see :func:`interrupted_rows`.
    """
    measurements = measure(
        {draft.name: draft.runner for draft in drafts if draft.runner},
        inputs,
        threads=spec.threads or default_threads(),
        max_seconds=spec.max_seconds,
        seed=spec.seed,
        emit=emit,
    )
    return _rows(drafts, measurements)


def interrupted_rows(drafts: Sequence[Draft], stop: MeasurementInterrupted) -> tuple[Row, ...]:
    """The rows of a measurement that Ctrl-C cut short."""
    return _rows(drafts, stop.partial)


def _rows(drafts: Sequence[Draft], measurements: Measurements) -> tuple[Row, ...]:
    by_name = {row.name: row for row in measurements.rows}
    reference = by_name[drafts[0].name].outputs
    rows = []
    for draft in drafts:
        measured = by_name.get(draft.name)
        accuracy = draft.accuracy
        if measured is not None and draft is not drafts[0] and reference and measured.outputs:
            accuracy = Accuracy.model_validate(compare(reference, measured.outputs))
        rows.append(_row(draft, measured, accuracy, None))
    return tuple(rows)


def _row(
    draft: Draft, measured: Measured | None, accuracy: Accuracy | None, failure: str | None
) -> Row:
    latency = None if measured is None or measured.latency is None else measured.latency
    reason = draft.not_measured or failure or (measured.not_measured if measured else None)
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
        notes=draft.notes,
    )
