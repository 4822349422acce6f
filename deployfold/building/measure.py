"""The stage that runs every artifact on the same inputs, and makes the rows of the table."""

from __future__ import annotations

from collections.abc import Sequence

from deployfold.config.build_spec import BuildSpec
from deployfold.data.real_inputs import tensors_of
from deployfold.loading import make_inputs
from deployfold.measuring.measurements import MeasurementInterrupted
from deployfold.reporting.row import Row
from deployfold.runtimes.device import is_gpu

from .artifact import Artifact
from .journal import Journal
from .load import Loaded
from .rows import Extras, interrupted_rows, measure_rows, rows_measured, unmeasured_rows
from .settings import run_settings


def measure(
    artifacts: Sequence[Artifact], loaded: Loaded, spec: BuildSpec, journal: Journal
) -> tuple[Row, ...]:
    """Measure the artifacts, the original model first.

    Raises:
        MeasureError: the labels do not fit the samples.
        MeasurementInterrupted: Ctrl-C; the journal keeps the results so far.
    """
    if not spec.measure:
        return unmeasured_rows(artifacts, "no measurement was requested")
    scored = loaded.scored
    if scored is not None:
        feeds = tuple(tensors_of(feed, loaded.inputs) for feed in scored.feeds)
        labels = scored.labels
    else:
        feeds, labels = loaded.samples if spec.input_data else (), loaded.labels
    extras = Extras(
        batches=spec.batches,
        make_inputs=lambda batch: make_inputs(loaded.inputs.with_batch(batch), seed=spec.seed),
        feeds=feeds,
        labels=labels,
        scoring=loaded.scoring,
        cold_start=spec.cold_start,
    )
    device = run_settings(spec).device
    if is_gpu(device):
        rounding = "may be" if spec.options.tf32 else "is not"
        journal.note(
            [f"Every row ran on {device}; fp32 {rounding} rounded to TF32 in all of them."]
        )
    with journal.running("measure", "loading") as stage:
        try:
            rows = measure_rows(artifacts, loaded.example, spec, extras=extras, emit=journal.emit)
        except MeasurementInterrupted as stop:
            journal.rows = interrupted_rows(artifacts, stop)
            raise
        journal.rows = rows
        stage.result(rows_measured(rows))
    return rows
