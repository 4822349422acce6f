"""The time of each layer: a table by PyTorch module, and the JSON that NVIDIA's tools read."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deployfold.util.files import write_text

from . import text
from .comparison import Cell, Mark
from .details import Grid
from .layers import LayerTimes, TimedLayer
from .report import Report
from .row import Row

SHOWN = 15
"""Modules in the table; the others share one line."""
CONVERSIONS = frozenset(
    (
        "Cast MemcpyFromHost MemcpyToHost Reformat ReorderInput ReorderOutput"
        " QuantizeLinear DequantizeLinear"
    ).split()
)
"""Kinds of layers that change the layout, place or precision of data and compute nothing. An INT8
engine that is not faster than FP16 spends its time in them, or in layers that stayed in FP16."""


def layer_time_grids(report: Report, *, everything: bool = False) -> list[Grid]:
    """One table for each row whose layers were timed: its modules, the slowest first.

    Args:
        everything: list all modules instead of the ``SHOWN`` slowest.
    """
    return [
        _grid(row, row.layer_times, everything)
        for row in report.rows
        if row.layer_times is not None and row.layer_times.layers
    ]


def untimed(report: Report) -> list[str]:
    """A sentence for each row whose runtime does not report the time of its layers."""
    return [
        text.clean(f"{row.title}: {row.layer_times.not_measured}")
        for row in report.rows
        if row.layer_times is not None and row.layer_times.not_measured
    ]


def _grid(row: Row, times: LayerTimes, everything: bool) -> Grid:
    total = sum(layer.ms for layer in times.layers)
    modules = _by_module(times.layers)
    shown = modules if everything or len(modules) <= SHOWN + 1 else modules[:SHOWN]
    rows = [
        (
            Cell(text.clean(name)),
            Cell(text.clean(", ".join(dict.fromkeys(layer.kind for layer in layers)))),
            *_time(layers, total),
        )
        for name, layers in shown
    ]
    if len(shown) < len(modules):
        rest = [layer for _, layers in modules[len(shown) :] for layer in layers]
        name = f"{len(modules) - len(shown)} others"
        rows.append((Cell(name, Mark.ABSENT), Cell(""), *_time(rest, total)))
    converting = [layer for layer in times.layers if layer.kind in CONVERSIONS]
    notes = [
        f"{len(times.layers)} layers, {text.digits(total)} ms: medians of {times.calls} "
        "profiled calls, which are slower than usual ones"
    ]
    if converting:
        part = sum(layer.ms for layer in converting)
        notes.append(
            f"Conversions of layout, place or precision: {len(converting)} layers, "
            f"{text.digits(part)} ms, {text.percent(part / total if total else 0.0)}"
        )
    return Grid(
        f"{text.clean(row.title)}: time by module",
        ("module", "layers", "ms", "share"),
        (False, False, True, True),
        tuple(rows),
        tuple(notes),
    )


def _by_module(layers: Sequence[TimedLayer]) -> list[tuple[str, list[TimedLayer]]]:
    """The layers of each module, the slowest module first; one without a module by its own name."""
    found: dict[str, list[TimedLayer]] = defaultdict(list)
    for layer in layers:
        found[layer.module or layer.name].append(layer)
    return sorted(found.items(), key=lambda one: -sum(layer.ms for layer in one[1]))


def _time(layers: Sequence[TimedLayer], total: float) -> tuple[Cell, Cell]:
    ms = sum(layer.ms for layer in layers)
    return Cell(text.digits(ms)), Cell(text.percent(ms / total if total else 0.0))


def write_layer_times(report: Report, directory: Path) -> list[Path]:
    """Write ``ROW.profile.json`` and ``ROW.layers.json`` for each row whose layers were timed.

    The first is in the form of ``trtexec --exportProfile``, the second in that of
    ``trtexec --exportLayerInfo``, which TensorRT's engine explorer reads:
    https://github.com/NVIDIA/TensorRT/tree/main/tools/experimental/trt-engine-explorer.

    Returns:
        The files.

    Raises:
        UsageError: a file cannot be written.
    """
    written = []
    for row in report.rows:
        if row.layer_times is None or not row.layer_times.layers:
            continue
        contents = (
            ("profile", _profile_json(row.layer_times)),
            ("layers", row.layer_times.details or _layers_json(row.layer_times)),
        )
        for kind, content in contents:
            path = directory / f"{row.name}.{kind}.json"
            write_text(path, json.dumps(content, indent=2) + "\n")
            written.append(path)
    return written


def _profile_json(times: LayerTimes) -> list[dict[str, Any]]:
    total = sum(layer.ms for layer in times.layers)
    return [
        {"count": times.calls},
        *(
            {
                "name": layer.name,
                "timeMs": layer.ms * times.calls,
                "averageMs": layer.ms,
                "medianMs": layer.ms,
                "percentage": 100 * layer.ms / total if total else 0.0,
            }
            for layer in times.layers
        ),
    ]


def _layers_json(times: LayerTimes) -> dict[str, Any]:
    return {
        "Layers": [
            {"Name": layer.name, "LayerType": layer.kind, "Metadata": layer.module or ""}
            for layer in times.layers
        ]
    }
