"""The artifact that is best by what the user chose: ``--choose latency|throughput|size``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import text
from .metrics import METRICS
from .recommendation import accurate
from .report import Chosen, ThresholdResult
from .row import Row


@dataclass(frozen=True)
class _Objective:
    """An objective of ``--choose``: the value of a row (less is better), and how to write it."""

    value: Callable[[Row], float | None]
    written: Callable[[float], str]


def _throughput(row: Row) -> float | None:
    """The negative of the greatest throughput, of the batch sweep where there was one."""
    found = [point.throughput for point in row.sweep if point.throughput is not None]
    if row.latency is not None:
        found.append(row.latency.throughput)
    return -max(found) if found else None


OBJECTIVES = {
    "latency": _Objective(METRICS["latency"].read, lambda value: f"{value:.3g} ms"),
    "throughput": _Objective(_throughput, lambda value: f"{-value:.3g} samples/s"),
    "size": _Objective(METRICS["size"].read, METRICS["size"].unit.write),
}


def choose_by(
    objective: str, rows: Sequence[Row], missed: Sequence[ThresholdResult] = ()
) -> Chosen:
    """The best file of a build, and the next best.

    A row is in the running if all of these hold:

    1. it has a file;
    2. its accuracy was measured and kept, see :func:`~.recommendation.accurate`;
    3. it misses no limit of the user's;
    4. it has the value to choose by: a latency that was measured here, or a size.

    Args:
        rows: the baseline first, which has no file.
        missed: the user's limits that were missed.
    """
    by = OBJECTIVES[objective]
    over = {one.row for one in missed if not one.passed}
    running = sorted(
        (
            (value, row)
            for row in rows[1:]
            if row.name not in over
            and row.artifact is not None
            and accurate(row, rows[0])
            and (value := by.value(row)) is not None
        ),
        key=lambda pair: pair[0],
    )
    if not running:
        reason = f"No file of this build can be chosen by {objective}: " + (
            "none keeps the accuracy and the limits."
            if any(by.value(row) is not None for row in rows[1:])
            else "none was measured here."
        )
        return Chosen(by=objective, sentence=reason)
    (value, best), *others = running
    sentence = f"Best by {objective}: {text.clean(best.title)}, {by.written(value)}"
    if others:
        second, row = others[0]
        sentence += f"; then {text.clean(row.title)}, {by.written(second)}"
    unmeasured = [text.clean(r.title) for r in rows[1:] if r.artifact and by.value(r) is None]
    if unmeasured:
        sentence += f". Not in the running, since not measured here: {'; '.join(unmeasured)}"
    return Chosen(
        by=objective,
        row=best.name,
        file=best.artifact,
        runner_up=others[0][1].name if others else None,
        sentence=f"{sentence}.",
    )
