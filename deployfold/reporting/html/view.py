"""The parts of the page of one report; the template only places them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from markupsafe import Markup

from deployfold.reporting import text
from deployfold.reporting.comparison import Cell, comparison
from deployfold.reporting.details import (
    Grid,
    cold_start_grid,
    engine_grids,
    layer_grids,
    sweep_grid,
)
from deployfold.reporting.footnotes import Footnotes, footnotes
from deployfold.reporting.layer_times import layer_time_grids, untimed
from deployfold.reporting.recommendation import Recommendation, not_measured, outputs, recommend
from deployfold.reporting.report import Report
from deployfold.reporting.row import Row
from deployfold.reporting.summary import Line, summary_lines

from .decide import decision_chart, drawn_rows
from .fold_map import OPEN, Group, fold_map
from .layers import LayerChart, layer_charts
from .outline import Outline
from .spread import Strips, latency_strips, stage_strips

_PACKAGES = ("torch", "torchvision", "timm", "onnx", "onnxruntime", "tensorrt-rtx", "tensorrt")
"""The packages that a build depends on, in the order of the command."""


@dataclass(frozen=True)
class Unmeasured:
    """A row without a latency, and what is known of it."""

    title: str
    facts: str


@dataclass(frozen=True)
class View:
    """The parts of one report's page; ``None`` or empty where there is nothing to show.

    Attributes:
        decision: the chart of latency against accuracy; ``equal`` says whether it has the band of
            rows that differ by rounding alone.
        unmeasured: the rows without a latency, by the reason.
        chosen: the index of the row to take.
        layers: for each quantised row its chart and its table.
        engines: the precision that each layer of a quantised engine got.
        times: the time of each module, for each row whose layers were timed.
        untimed: why the layers of the other rows have no times, where that was asked for.
        sections: the titles of the sections, by their ids.
    """

    report: Report
    choice: Recommendation
    decision: Markup | None
    equal: bool
    unmeasured: dict[str, list[Unmeasured]]
    headers: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[Cell, ...], ...]
    chosen: int | None
    notes: Footnotes
    lines: list[Line]
    latencies: Strips | None
    grids: list[Grid]
    fold_map: Group | None
    fold_open: bool
    layers: list[tuple[LayerChart, Grid]]
    engines: list[Grid]
    times: list[Grid]
    untimed: list[str]
    outline: Outline | None
    stages: Strips | None
    environment: dict[str, str]
    install: str
    command: str | None
    json: str
    sections: dict[str, str]


def view(report: Report, outline: Outline | None) -> View:
    """Everything that the page shows of a report."""
    choice, notes = recommend(report), footnotes(report)
    shown = comparison(report, notes).columns
    decision = decision_chart(report, choice.row)
    fold = report.fold if report.fold and (report.fold.folded or report.fold.left) else None
    found = View(
        report=report,
        choice=choice,
        decision=decision,
        equal=decision is not None and 'class="band"' in decision,
        unmeasured=_unmeasured(report),
        headers=tuple(column.header for column in shown),
        numeric=tuple(column.numeric for column in shown),
        rows=tuple(zip(*(column.cells for column in shown), strict=True)),
        chosen=next((i for i, row in enumerate(report.rows) if row is choice.row), None),
        notes=notes,
        lines=summary_lines(report),
        latencies=latency_strips(report),
        grids=[grid for grid in (sweep_grid(report), cold_start_grid(report)) if grid],
        fold_map=None if fold is None else fold_map(fold),
        fold_open=fold is not None and len(fold.folded) + len(fold.left) <= OPEN,
        layers=list(zip(layer_charts(report), layer_grids(report), strict=True)),
        engines=engine_grids(report),
        times=layer_time_grids(report, everything=True),
        untimed=untimed(report),
        outline=outline,
        stages=stage_strips(report),
        environment=_environment(report),
        install=_install_command(report),
        command=_build_command(report),
        json=report.to_json(),
        sections={},
    )
    found.sections.update(_sections(found))
    return found


def _unmeasured(report: Report) -> dict[str, list[Unmeasured]]:
    """By reason, the rows that the chart cannot have; empty where it has none at all."""
    if not any(row.latency for row in report.rows):
        return {}
    reasons = not_measured(report)
    drawn = drawn_rows(report)
    rest = [row for row in report.rows if row.latency and drawn and row not in drawn]
    if rest:
        reasons["Measured, but its accuracy is not known."] = rest
    return {
        reason: [Unmeasured(row.title, _facts(row, report.rows[0])) for row in rows]
        for reason, rows in reasons.items()
    }


def _facts(row: Row, baseline: Row) -> str:
    parts = [text.size(row.bytes) if row.bytes else "", outputs(row, baseline)]
    return ", ".join(part for part in parts if part)


def _environment(report: Report) -> dict[str, str]:
    found = report.environment
    threads = f", {found.cpus} hardware threads" if found.cpus else ""
    cores = f"{found.physical_cores} cores{threads}"
    parts = {
        "CPU": f"{found.cpu}, {cores}; {found.threads} used",
        "GPU": found.gpu or "",
        "governor": found.governor or "",
        "load": "" if found.load_average is None else f"{found.load_average:.2f} when it was made",
        "system": f"{found.os}, Python {found.python}",
        "inputs": text.inputs(report),
        "packages": ", ".join(f"{name} {one}" for name, one in found.packages.items()),
    }
    return {label: text.clean(value) for label, value in parts.items() if value}


def _sections(found: View) -> dict[str, str]:
    grids = {grid.title.replace(" ", "-").replace("/", "-"): grid.title for grid in found.grids}
    titles = {
        "artifacts": ("Artifacts", found.rows),
        "latencies": ("Distribution", found.latencies),
        **{key: (title.capitalize(), True) for key, title in grids.items()},
        "folding": ("Fold map", found.fold_map),
        "quantisation": ("Quantisation error", found.layers),
        "engines": ("Layers of the engines", found.engines),
        "times": ("Time by module", found.times or found.untimed),
        "graph": ("Graph", found.outline),
        "stages": ("Stages", found.stages),
        "environment": ("Environment", True),
        "reproduce": ("Reproduce", True),
    }
    return {key: title for key, (title, shown) in titles.items() if shown}


def _build_command(report: Report) -> str | None:
    """The ``deployfold build`` of the report; ``None`` where the report does not hold it."""
    if report.options is None:
        return None
    words = ["deployfold", "build", text.clean(report.source.path)]
    for key, value in report.options.items():
        for one in value if isinstance(value, list) else [value]:
            if one is not False:
                words += [f"--{key}"] if one is True else [f"--{key}", text.clean(str(one))]
    return shlex.join(words)


def _install_command(report: Report) -> str:
    """The ``pip install`` of deployfold and of the packages that made the artifacts."""
    found = report.environment.packages
    versions = {"deployfold": report.deployfold_version}
    versions |= {name: found[name] for name in _PACKAGES if name in found}
    # A local version, such as 2.6.0+cu124, is not on the public index.
    pins = [f"{name}=={text.clean(one).split('+')[0]}" for name, one in versions.items()]
    return shlex.join(["pip", "install", *pins])
