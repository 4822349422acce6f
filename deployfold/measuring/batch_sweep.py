"""Measures the throughput of every row by batch size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from deployfold.config.build_spec import BuildSpec
from deployfold.errors import DeployfoldError, MeasureError
from deployfold.events import Emit, StageProgress, ignore, part_of
from deployfold.reporting.row import BatchPoint
from deployfold.runtimes.failures import summary
from deployfold.runtimes.protocol import Inputs, Runner

from .latency import measure
from .measurements import Measured
from .shared_runners import shared


def sweep_batches(
    runners: Mapping[str, Runner],
    make_inputs: Callable[[int], Inputs],
    batches: Sequence[int],
    *,
    threads: int | None = None,
    max_seconds: float = BuildSpec.max_seconds,
    seed: int = 0,
    emit: Emit = ignore,
) -> dict[str, tuple[BatchPoint, ...]]:
    """Measure every row at every batch size, the rows of one size in interleaved rounds.

    A row may refuse a size: an engine beyond its optimization profile, a file exported with a fixed
    batch. Such a row, or a row whose outputs differ in shape from the baseline's, is not measured
    at that size, and the result has the reason.

    Args:
        runners: the runners by row name; each is loaded once, and closed at the end. The first has
            the expected shapes of the outputs.
        batches: the batch sizes, in any order.
        max_seconds: the time limit for all sizes together.
        threads, seed, emit: as in :func:`.latency.measure`.

    Raises:
        MeasureError: there are no rows.
        MeasurementInterrupted: Ctrl-C.
    """
    if not runners:
        raise MeasureError("There is nothing to measure.")
    base = next(iter(runners))
    points: dict[str, list[BatchPoint]] = {name: [] for name in runners}
    with shared(runners) as kept:
        sizes = sorted(set(batches))
        for index, batch in enumerate(sizes):
            part = part_of(emit, index / len(sizes), 1 / len(sizes))
            part(StageProgress("measure", f"batch {batch}", 0.0))
            try:
                inputs = make_inputs(batch)
            except DeployfoldError as error:
                for name in runners:
                    points[name].append(BatchPoint(batch=batch, not_measured=summary(error)))
                continue
            measured = measure(
                kept,
                inputs,
                threads=threads,
                batch=batch,
                max_seconds=max_seconds / len(sizes),
                seed=seed,
                emit=part,
            )
            shapes = _shapes(next(row for row in measured.rows if row.name == base))
            for row in measured.rows:
                points[row.name].append(_point(row, batch, shapes))
    return {name: tuple(found) for name, found in points.items()}


def _shapes(row: Measured) -> list[tuple[int, ...]] | None:
    return None if row.outputs is None else [array.shape for array in row.outputs]


def _point(row: Measured, batch: int, expected: list[tuple[int, ...]] | None) -> BatchPoint:
    shapes = _shapes(row)
    if row.latency is None:
        return BatchPoint(batch=batch, not_measured=row.not_measured)
    if expected is not None and shapes != expected:
        return BatchPoint(
            batch=batch,
            not_measured=f"its outputs have the shapes {shapes}, the original's {expected}",
        )
    latency = row.latency
    return BatchPoint(
        batch=batch,
        median_ms=latency.median_ms,
        throughput=latency.throughput,
        stable=latency.stable,
    )
