"""The smaller tables of a report, for every renderer: batches, cold start, stages, layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from . import text
from .comparison import Cell, Mark
from .layers import EngineLayers, QuantizationSummary, QuantizedLayer
from .metrics import LOSSY_SQNR_DB
from .report import Report
from .row import BatchPoint, Row, saturation


@dataclass(frozen=True)
class Grid:
    """A table: its headers, whether each column is numeric, rows of cells, and lines below it."""

    title: str
    headers: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


def sweep_grid(report: Report) -> Grid | None:
    """Throughput by batch size, and from which batch it no longer rises; ``None`` without one."""
    swept = [row for row in report.rows if row.sweep]
    if not swept:
        return None
    batches = sorted({point.batch for row in swept for point in row.sweep})
    reasons: dict[str, int] = {}
    rows = []
    for row in swept:
        points = {point.batch: point for point in row.sweep}
        measured = [p.throughput for p in row.sweep if p.throughput is not None]
        best = max(measured) if len(measured) > 1 else None
        cells = [Cell(text.clean(row.title))]
        cells += [_point(points.get(batch), best, reasons) for batch in batches]
        cells.append(Cell(_saturation(row.sweep)))
        rows.append(tuple(cells))
    notes = _reasons(reasons)
    unstable = any(not p.stable for row in swept for p in row.sweep if p.throughput is not None)
    if unstable:
        notes.append("~ not stable: more time with --max-seconds, or fewer other programs")
    notes.append("Saturated: the smallest batch within 5 % of the row's best throughput")
    return Grid(
        "samples/s by batch",
        ("artifact", *(f"batch {batch}" for batch in batches), "saturated"),
        (False, *(True for _ in batches), True),
        tuple(rows),
        tuple(notes),
    )


def cold_start_grid(report: Report) -> Grid | None:
    """Cold start and peak memory of fresh processes; ``None`` where they were not measured."""
    started = [(row, row.cold_start) for row in report.rows if row.cold_start is not None]
    if not started:
        return None
    totals = [cold.total_ms for _, cold in started if cold.total_ms is not None]
    peaks = [cold.peak_bytes for _, cold in started if cold.peak_bytes is not None]
    rows, runs = [], 0
    reasons: dict[str, int] = {}
    for row, cold in started:
        title = Cell(text.clean(row.title))
        runs = max(runs, cold.runs)
        if cold.total_ms is None:
            rows.append((title, *[_absent(cold.not_measured, reasons)] * 4))
            continue
        rows.append(
            (
                title,
                *(
                    Cell(text.NOTHING if one is None else text.digits(one))
                    for one in (cold.load_ms, cold.first_ms)
                ),
                Cell(text.digits(cold.total_ms), _best(cold.total_ms, totals)),
                Cell(text.size(cold.peak_bytes), _best(cold.peak_bytes, peaks)),
            )
        )
    plural = "" if runs == 1 else "es"
    return Grid(
        "cold start",
        ("artifact", "load ms", "first ms", "cold start ms", "peak memory"),
        (False, True, True, True, True),
        tuple(rows),
        (
            *_reasons(reasons),
            f"Cold start: load to first output, after the imports, file in the page cache; median"
            f" of {runs} fresh process{plural}. Peak memory: resident, above what the imports took",
        ),
    )


def stages_grid(report: Report) -> Grid | None:
    """Time and peak memory of every stage of the build; ``None`` where they were not kept."""
    if not report.stages:
        return None
    return Grid(
        "stages",
        ("stage", "seconds", "peak memory"),
        (False, True, True),
        tuple(
            (
                Cell(text.clean(stage.stage)),
                Cell(f"{stage.seconds:.1f}"),
                Cell(text.NOTHING, Mark.ABSENT)
                if stage.peak_bytes is None
                else Cell(text.size(stage.peak_bytes)),
            )
            for stage in report.stages
        ),
        (
            "Peak memory: resident, of the build's process, and of the largest that it had started"
            " where that was larger than any before",
        ),
    )


def layer_grids(report: Report) -> list[Grid]:
    """The layers of every quantised row: the least SQNR first, those not measured last."""
    return [
        _layers(row, row.quantization)
        for row in report.rows
        if row.quantization and row.quantization.layers
    ]


def engine_grids(report: Report) -> list[Grid]:
    """The layers of every engine with a quantised network: what each asked for and what it got."""
    return [
        _engine(row, row.engine_layers, precision)
        for row in report.rows
        if row.engine_layers is not None and (precision := row.engine_layers.quantised)
    ]


def _engine(row: Row, engine: EngineLayers, precision: str) -> Grid:
    rows = tuple(
        (
            Cell(text.clean(layer.name)),
            Cell(text.clean(layer.kind.lower())),
            Cell(layer.asked or text.NOTHING),
            Cell(layer.got or text.NOTHING, Mark.PLAIN if layer.got == layer.asked else Mark.LOST),
            Cell(layer.writes or text.NOTHING),
        )
        for layer in engine.layers
    )
    return Grid(
        text.clean(f"{row.title}: {engine.sentence(precision)}"),
        ("layer", "kind", "asked", "got", "writes"),
        (False,) * 5,
        rows,
    )


def _layers(row: Row, summary: QuantizationSummary) -> Grid:
    total = sum(layer.macs or 0 for layer in summary.layers)

    def place(layer: QuantizedLayer) -> tuple[bool, float, int]:
        sqnr = math.inf if layer.sqnr_db is None or math.isnan(layer.sqnr_db) else layer.sqnr_db
        return layer.sqnr_db is None, sqnr, -(layer.macs or 0)

    rows = []
    for layer in sorted(summary.layers, key=place):
        lossy = layer.sqnr_db is not None and not layer.sqnr_db >= LOSSY_SQNR_DB
        sqnr = text.NOTHING if layer.sqnr_db is None else text.decibels(layer.sqnr_db)
        absent = Mark.ABSENT if layer.sqnr_db is None else Mark.PLAIN
        reach = text.NOTHING if layer.input_range is None else f"±{layer.input_range:.4g}"
        share = "" if not total or layer.macs is None else f" ({text.percent(layer.macs / total)})"
        rows.append(
            (
                Cell(text.clean(layer.name)),
                Cell(text.clean(layer.op_type)),
                Cell(text.clean(layer.precision)),
                Cell(sqnr, Mark.LOST if lossy else absent),
                Cell(reach, Mark.ABSENT if layer.input_range is None else Mark.PLAIN),
                Cell(f"{text.short(layer.macs)}{share}"),
                Cell(text.clean(layer.reason or layer.estimator or "")),
            )
        )
    why = f"estimator, or why not {summary.precision}"
    return Grid(
        f"{text.clean(row.title)}: {text.quantization(summary)}",
        ("layer", "op", "precision", "SQNR", "range", "MACs", why),
        (False, False, False, True, True, True, False),
        tuple(rows),
    )


def _point(point: BatchPoint | None, best: float | None, reasons: dict[str, int]) -> Cell:
    if point is None:
        return Cell(text.NOTHING, Mark.ABSENT)
    if point.throughput is None:
        return _absent(point.not_measured, reasons)
    written = ("" if point.stable else "~") + text.digits(point.throughput)
    return Cell(written, Mark.BEST if best is not None and point.throughput == best else Mark.PLAIN)


def _saturation(points: Sequence[BatchPoint]) -> str:
    batch = saturation(points)
    if batch is None:
        return text.NOTHING
    greatest = max(point.batch for point in points if point.throughput is not None)
    return f"still rising at {batch}" if batch == greatest else f"batch {batch}"


def _best(value: float | None, values: Sequence[float]) -> Mark:
    if value is None:
        return Mark.ABSENT
    return Mark.BEST if len(values) > 1 and value == min(values) else Mark.PLAIN


def _absent(why: str | None, reasons: dict[str, int]) -> Cell:
    """A cell without a value, with the number of the reason."""
    why = text.clean(why or text.NO_REASON)
    mark = text.superscript(reasons.setdefault(why, len(reasons) + 1))
    return Cell(text.NOTHING, Mark.ABSENT, mark)


def _reasons(reasons: dict[str, int]) -> list[str]:
    return [f"{text.superscript(number)} {reason}" for reason, number in reasons.items()]
