"""The error of every layer of a quantised row, in the order of the model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup

from deployfold.errors import first_few
from deployfold.reporting import text
from deployfold.reporting.layers import QuantizationSummary, QuantizedLayer
from deployfold.reporting.metrics import LOSSY_SQNR_DB
from deployfold.reporting.report import Report

from .svg import add, drawing, markup, percent, ticks

_HEIGHT = 150.0
_WORST = 3
"""Layers named below the chart."""
_LEAST = 3
"""Fewer measured layers are better read as words."""


@dataclass(frozen=True)
class LayerChart:
    """The chart of one row, and what it shows in words; ``back``: layers left the precision."""

    title: str
    chart: Markup | None
    lines: tuple[str, ...]
    back: bool


def layer_charts(report: Report) -> list[LayerChart]:
    """One chart for each quantised row that has layers."""
    return [
        LayerChart(
            f"{text.clean(row.title)}: {text.quantization(summary)}",
            _chart(summary),
            tuple(_lines(summary)),
            any(layer.precision != summary.precision for layer in summary.layers),
        )
        for row in report.rows
        if (summary := row.quantization) and summary.layers
    ]


def _chart(summary: QuantizationSummary) -> Markup | None:
    layers = summary.layers
    known = [value for layer in layers if (value := _sqnr(layer)) is not None]
    if len(known) < _LEAST:
        return None
    most = max(*known, LOSSY_SQNR_DB) * 1.05
    svg = drawing(f"SQNR of every layer of {summary.precision}, in model order", _HEIGHT + 6)
    for value in ticks(most, 4):
        y = _HEIGHT * (1 - value / most)
        add(svg, "line", x1=0, x2="100%", y1=y, y2=y, class_="grid")
        add(svg, "text", f"{value:g} dB", x=-8, y=y + 4, text_anchor="end", class_="tick")
    for index, layer in enumerate(layers):
        _column(svg, index, layer, summary, most)
    y = _HEIGHT * (1 - LOSSY_SQNR_DB / most)
    add(svg, "line", x1=0, x2="100%", y1=y, y2=y, class_="limit")
    return markup(svg)


def _column(
    svg: object, index: int, layer: QuantizedLayer, summary: QuantizationSummary, most: float
) -> None:
    count = len(summary.layers)
    back = layer.precision != summary.precision
    sqnr = _sqnr(layer)
    kind = "back" if back else "lost" if sqnr is not None and sqnr < LOSSY_SQNR_DB else "plain"
    height = max(2.0, _HEIGHT * (0.0 if sqnr is None else sqnr) / most)
    rect = add(
        svg, "rect",  # type: ignore[arg-type]
        x=percent((index + 0.1) / count), width=percent(0.8 / count),
        y=_HEIGHT - height, height=height, class_=f"column {kind}",
    )  # fmt: skip
    add(rect, "title", _tip(layer, back=back))


def _tip(layer: QuantizedLayer, *, back: bool) -> str:
    sqnr = _sqnr(layer)
    measured = "not measured" if sqnr is None else text.decibels(sqnr)
    reason = f", {layer.precision}: {layer.reason}" if back else ""
    return f"{layer.name} ({layer.op_type}): {measured}{reason}"


def _lines(summary: QuantizationSummary) -> list[str]:
    """The worst layers, and those that are not quantised, grouped by their reason."""
    lines = []
    known = [layer for layer in summary.layers if _sqnr(layer) is not None]
    worst = sorted(known, key=lambda layer: _sqnr(layer) or 0.0)[:_WORST]
    if worst:
        named = [f"{text.clean(one.name)} {text.decibels(_sqnr(one) or 0.0)}" for one in worst]
        lines.append(f"Least exact: {', '.join(named)}.")
    reasons: dict[tuple[str, str], list[str]] = {}
    for layer in summary.layers:
        if layer.precision != summary.precision:
            key = (layer.precision, text.clean(layer.reason or text.NO_REASON))
            reasons.setdefault(key, []).append(text.clean(layer.name))
    lines += [
        f"{len(names)} in {precision}: {first_few(names)} ({reason})."
        for (precision, reason), names in reasons.items()
    ]
    return lines


def _sqnr(layer: QuantizedLayer) -> float | None:
    """The layer's SQNR in decibels where it is a number that can be drawn."""
    value = layer.sqnr_db
    return value if value is not None and math.isfinite(value) else None
