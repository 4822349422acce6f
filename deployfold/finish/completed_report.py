"""Completes a build's report with the rows that ``deployfold finish`` made on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deployfold.config.option_field import options_of
from deployfold.config.thresholds import Thresholds
from deployfold.reporting.conditions import Environment
from deployfold.reporting.report import Report, Status, ThresholdResult, now
from deployfold.reporting.row import Row
from deployfold.reporting.thresholds import check
from deployfold.targets.machine import Machine

from .kit import Kit, Wanted, copy_note

STOPPED = Status(
    state="interrupted",
    stage="compile",
    message="deployfold finish ended before its engines were complete; run it again",
)
"""The status of the report while engines are being replaced."""


def completed(
    report: Report, rows: Sequence[Row], kit: Kit, machine: Machine, here: Environment
) -> Report:
    """The report with the new rows, checked against the limits of the build.

    A row replaces the build's row of the same name; other rows go to the end. The environment
    becomes the device's. Rows that the build measured get a note with the build's machine.

    Args:
        rows: the rows made on the device.
        machine: the device's GPU and libraries.
        here: the device's environment.
    """
    by_name = {row.name: row for row in rows}
    kept = [_merge(old, by_name.pop(old.name, None)) for old in report.rows]
    there = report.environment
    if (here.cpu, here.gpu, here.os) != (there.cpu, there.gpu, there.os):
        kept = [_measured_elsewhere(row, there, rows) for row in kept]
    every = (*kept, *by_name.values())
    before = copy_note(_without_engine(kit.wanted, report.rows))
    notes = [note for note in report.notes if note != before]
    if left := _without_engine(kit.wanted, every):
        notes.append(copy_note(left))
    where = "without a GPU" if machine.gpu is None else f"on {machine.gpu.name}"
    note = f"Finished {where}, {now()}: {', '.join(row.name for row in rows)}."
    return report.model_copy(
        update={
            "rows": every,
            "status": Status() if report.status == STOPPED else report.status,
            "notes": (*notes, note),
            "environment": here,
            "thresholds": (*check(every, _limits(report)), *_kept_results(report)),
        }
    )


def _without_engine(wanted: Sequence[Wanted], rows: Sequence[Row]) -> list[str]:
    """The targets whose rows have no engine."""
    built = {row.name for row in rows if row.artifact is not None}
    return [one.target for one in wanted if one.row not in built]


def _measured_elsewhere(row: Row, built_on: Environment, finished: Sequence[Row]) -> Row:
    """The row, with a note on the machine of the build if the build measured its latency."""
    if row in finished or row.latency is None or row.measured_on is not None:
        return row
    threads = "1 thread" if built_on.threads == 1 else f"{built_on.threads} threads"
    where = " · ".join([built_on.cpu, *([built_on.gpu] if built_on.gpu else []), threads])
    note = f"measured where it was built: {where}"
    return row.model_copy(update={"notes": (*row.notes, note), "measured_on": where})


def _merge(old: Row, new: Row | None) -> Row:
    """The new row with the build's parameters, BatchNorms and quantised layers.

    If no new engine was built, an earlier one stays.
    """
    if new is None or (new.artifact is None and old.artifact is not None):
        return old
    if new.artifact is None:
        return old.model_copy(update={"not_measured": new.not_measured})
    return new.model_copy(
        update={
            "parameters": old.parameters,
            "batchnorm_layers": old.batchnorm_layers,
            "quantization": old.quantization,
        }
    )


def _limits(report: Report) -> Thresholds:
    """The limits of the build, from their results in its report."""
    values: dict[str, Any] = {}
    for option in options_of(Thresholds):
        results = [one for one in report.thresholds if one.name == option.key]
        if option.many:
            values[option.name] = tuple((one.row, one.limit) for one in results if one.row)
        elif results:
            values[option.name] = results[0].limit
    return Thresholds(**values)


def _kept_results(report: Report) -> list[ThresholdResult]:
    """The results of the build's limits on task metrics, which no device measures again."""
    checked = {option.key for option in options_of(Thresholds)}
    return [one for one in report.thresholds if one.name not in checked]
