"""The report of a sweep: a row for every model, precision and target."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deployfold import __version__
from deployfold.compiling.sidecar import read_sidecar
from deployfold.config import row_names
from deployfold.config.precision import Precision
from deployfold.errors import DeployfoldError, UsageError
from deployfold.finish.kit import wanted_engines
from deployfold.reporting import units
from deployfold.reporting.markdown import escape, table_lines
from deployfold.reporting.metrics import METRICS
from deployfold.reporting.report import Report, load_report, now
from deployfold.reporting.row import Row
from deployfold.reporting.text import clean, short
from deployfold.runtimes import TENSORRT, runtime_of
from deployfold.util.files import write_text

from .jobs import RECORD, Cell, read_record
from .work import Outcome

if TYPE_CHECKING:
    from rich.console import RenderableType

SWEEP_JSON, SWEEP_MD = "sweep.json", "sweep.md"
SCHEMA_VERSION = 1

State = Literal["built", "to finish", "refused", "failed", "pending"]


@dataclass(frozen=True)
class CellResult:
    """The result for one model in one precision for one target.

    Attributes:
        state: ``built``; ``to finish``, on the device with ``deployfold finish``; ``refused``, for
            example because INT8 would lose accuracy; ``failed``; or ``pending``, not started.
        directory: the directory of the build, relative to the sweep's; ``None`` without one.
        artifact: the file name of the engine.
        bytes: size of the engine.
        parameters: number of parameters of the folded model.
        median_ms: median latency of the engine; ``None`` if not measured.
        sqnr_db: SQNR of the lowered model against the original, in dB.
        seconds, peak_bytes: time and peak memory of the build, for all its precisions and targets.
        message: the reason why the cell is not built.
    """

    model: str
    precision: str
    target: str
    state: State
    directory: str | None = None
    artifact: str | None = None
    bytes: int | None = None
    parameters: int | None = None
    median_ms: float | None = None
    sqnr_db: float | None = None
    seconds: float | None = None
    peak_bytes: int | None = None
    message: str | None = None


def summarise(
    cells: Sequence[Cell], done: Mapping[Cell, Path], outcomes: Iterable[Outcome], root: Path
) -> tuple[CellResult, ...]:
    """The state of every cell, in the order of the fleet file.

    Args:
        done: the directory of every finished cell.
        outcomes: the outcomes of this run's jobs, with the reasons of failures.
        root: the directory of the sweep.
    """
    failed = {
        (cell.key, cell.target): outcome
        for outcome in outcomes
        if outcome.failure is not None
        for cell in outcome.job.cells
    }
    return tuple(
        _of_directory(cell, done[cell], root)
        if cell in done
        else _without(cell, failed.get((cell.key, cell.target)))
        for cell in cells
    )


def write_summary(results: Sequence[CellResult], root: Path) -> None:
    """Write ``sweep.json`` and ``sweep.md`` into ``root``, atomically."""
    write_text(root / SWEEP_JSON, to_json(results))
    write_text(root / SWEEP_MD, to_markdown(results))


def to_json(results: Sequence[CellResult]) -> str:
    """The JSON text of a sweep's report."""
    report = {
        "schema_version": SCHEMA_VERSION,
        "deployfold_version": __version__,
        "created": now(),
        "cells": [asdict(result) for result in results],
    }
    return json.dumps(report, indent=2) + "\n"


def to_markdown(results: Sequence[CellResult]) -> str:
    """A Markdown table of a sweep."""
    headers, numeric = [one.header for one in _COLUMNS], [one.numeric for one in _COLUMNS]
    rows = ([escape(one.write(result)) for one in _COLUMNS] for result in results)
    return "\n".join(table_lines(headers, numeric, rows)) + "\n"


def to_table(results: Sequence[CellResult]) -> RenderableType:
    """A table for a terminal of 80 columns, followed by the reasons of missing builds."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    styles = {"built": "green", "to finish": "cyan", "refused": "yellow", "failed": "red"}
    shown = [column for column in _COLUMNS if column.on_terminal]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for index, column in enumerate(shown):
        table.add_column(
            column.header,
            justify="right" if column.numeric else "left",
            no_wrap=index != 0,
            overflow="fold",
        )
    previous = ("", "")
    reasons: dict[str, list[str]] = {}
    for result in results:
        words = [Text(clean(column.write(result))) for column in shown]
        if previous[0] == result.model:
            words[0] = Text("")
            words[1] = Text("") if previous[1] == result.precision else words[1]
        previous = (result.model, result.precision)
        words[3].stylize(styles.get(result.state, "dim"))
        table.add_row(*words)
        if result.message:
            where = f"{result.model} {result.precision} {result.target}"
            reasons.setdefault(result.message, []).append(where)
    lines = [Text(clean(f"{', '.join(who)}: {why}"), "dim") for why, who in reasons.items()]
    return Group(table, *lines)


@dataclass(frozen=True)
class _Column:
    """A column of a sweep's tables; ``on_terminal`` is false if it does not fit 80 columns."""

    header: str
    write: Callable[[CellResult], str]
    numeric: bool = False
    on_terminal: bool = True


def _number(
    header: str, read: Callable[[CellResult], float | None], cell: Callable[[float], str],
    *, on_terminal: bool = True,
) -> _Column:  # fmt: skip
    """A column of numbers; a missing number is an empty cell."""

    def write(result: CellResult) -> str:
        value = read(result)
        return "" if value is None else cell(value)

    return _Column(header, write, numeric=True, on_terminal=on_terminal)


def _metric(key: str, read: Callable[[CellResult], float | None]) -> _Column:
    """The column of a report's metric."""
    metric = METRICS[key]
    return _number(metric.header, read, metric.unit.cell)


_COLUMNS = (
    _Column("model", lambda result: result.model),
    _Column("precision", lambda result: result.precision),
    _Column("target", lambda result: result.target),
    _Column("state", lambda result: result.state),
    _metric("size", lambda result: result.bytes),
    _number("params", lambda result: result.parameters, lambda value: short(round(value))),
    _metric("latency", lambda result: result.median_ms),
    _metric("sqnr", lambda result: result.sqnr_db),
    _number("build s", lambda result: result.seconds, "{:.1f}".format, on_terminal=False),
    _number("build memory", lambda result: result.peak_bytes, units.BYTES.cell, on_terminal=False),
    _Column("why", lambda result: result.message or "", on_terminal=False),
)


def _without(cell: Cell, outcome: Outcome | None) -> CellResult:
    names = (cell.model.name, cell.precision.value, cell.target)
    if outcome is None:
        return CellResult(*names, state="pending")
    return CellResult(
        *names,
        state="failed",
        seconds=outcome.seconds,
        peak_bytes=outcome.peak_bytes,
        message=outcome.failure,
    )


def _of_directory(cell: Cell, directory: Path, root: Path) -> CellResult:
    record = read_record(directory / RECORD)
    names = (cell.model.name, cell.precision.value, cell.target)
    common: dict[str, Any] = {
        "directory": str(directory.relative_to(root)),
        "seconds": record.get("seconds"),
        "peak_bytes": record.get("peak_bytes"),
    }
    try:
        report = load_report(directory)
    except DeployfoldError as error:
        return CellResult(*names, state="failed", message=error.message, **common)
    common["parameters"] = report.fold.parameters_after if report.fold else None
    common["sqnr_db"] = _sqnr(report, cell.precision)
    engine = _engine_row(report, directory, cell)
    if engine is not None:
        return CellResult(
            *names,
            state="built",
            artifact=engine.artifact,
            bytes=engine.bytes,
            median_ms=engine.latency.median_ms if engine.latency else None,
            **common,
        )
    if report.status.state == "failed":
        return CellResult(*names, state="refused", message=report.status.message, **common)
    name = row_names.engine(cell.precision, cell.target)
    left = next((row for row in report.rows if row.name == name), None)
    state: State = "to finish" if _in_kit(cell, directory) else "refused"
    return CellResult(
        *names, state=state, message=left.not_measured if left is not None else None, **common
    )


def _engine_row(report: Report, directory: Path, cell: Cell) -> Row | None:
    """The row with the cell's engine; an FP16 engine built instead of INT8 does not count."""
    for row in report.rows:
        if row.artifact is None or runtime_of(row.artifact) is not TENSORRT:
            continue
        with suppress(DeployfoldError):
            sidecar = read_sidecar(directory / row.artifact)
            if sidecar.precision == cell.precision.value and cell.target in sidecar.targets:
                return row
    return None


def _in_kit(cell: Cell, directory: Path) -> bool:
    """Whether the device itself can still build the cell's engine."""
    with suppress(OSError, UsageError):
        pairs = [(one.precision, one.target) for one in wanted_engines(directory)]
        return (cell.precision, cell.target) in pairs
    return False


def _sqnr(report: Report, precision: Precision) -> float | None:
    accuracy = (
        row.accuracy for row in report.rows if row.name == row_names.lowered_onnx(precision)
    )
    return next((one.sqnr_db for one in accuracy if one is not None), None)
