"""The charts of the HTML report, as SVG that takes the colour of the text around it."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from deployfold.reporting import text
from deployfold.reporting.metrics import LOSSY_SQNR_DB
from deployfold.reporting.report import QuantizedLayer, Report, Row

_INK = "#010203"
"""Stands for the text's colour until the SVG is made; nothing else is drawn in it."""
_MAIN, _LOW = "#3b82c4", "#d05a4e"  # both readable on white and on black
_WIDTH, _ROW = 7.2, 0.34
"""Inches: the width of a chart, and the height of a row in it."""
_LAYERS = 40
"""Layers in the chart of a quantised row, the worst."""


def latency_chart(report: Report) -> str | None:
    """A box for each row that was measured: quartiles, median, and whiskers at 5 and 95 %."""
    rows = [row for row in report.rows if row.latency and len(row.latency.quantiles_ms) == 21]
    if not rows:
        return None
    figure, axes = _figure(len(rows))
    boxes = []
    for row in rows:
        assert row.latency is not None
        marks = row.latency.quantiles_ms
        boxes.append(
            {"whislo": marks[1], "q1": marks[5], "med": marks[10], "q3": marks[15],
             "whishi": marks[19], "fliers": []}
        )  # fmt: skip
    line = {"color": _INK}
    axes.bxp(
        boxes,
        positions=range(len(rows)),
        orientation="horizontal",
        showfliers=False,
        patch_artist=True,
        widths=0.6,
        boxprops={"facecolor": _MAIN, "edgecolor": _INK},
        medianprops={"color": _LOW, "linewidth": 2},
        whiskerprops=line,
        capprops=line,
    )
    axes.set_xlim(left=0)
    axes.set_xlabel("milliseconds a call: 5, 25, 50 (red), 75 and 95 %")
    _name_rows(axes, [row.title for row in rows])
    return _svg(figure, "Latency of every artifact")


def size_chart(report: Report) -> str | None:
    """A bar for the size of each row's file."""
    rows = [row for row in report.rows if row.bytes]
    return _bars(rows, [(row.bytes or 0) / 1e6 for row in rows], "size in MB", "Size on disk")


def parameter_chart(report: Report) -> str | None:
    """A bar for the parameters of each row."""
    rows = [row for row in report.rows if row.parameters]
    values = [(row.parameters or 0) / 1e6 for row in rows]
    return _bars(rows, values, "parameters in millions", "Parameters")


def layer_chart(layers: Sequence[QuantizedLayer]) -> str | None:
    """The SQNR of the layers of a quantised row, the worst first."""
    known = [layer for layer in layers if layer.sqnr_db is not None]
    worst = sorted(known, key=lambda layer: layer.sqnr_db or 0.0)[:_LAYERS]
    if not worst:
        return None
    figure, axes = _figure(len(worst))
    axes.barh(
        range(len(worst)),
        [layer.sqnr_db for layer in worst],
        color=[_LOW if (layer.sqnr_db or 0.0) < LOSSY_SQNR_DB else _MAIN for layer in worst],
    )
    axes.set_xlabel(f"SQNR in dB (below {LOSSY_SQNR_DB:g} in red)")
    axes.margins(y=0.01)
    _name_rows(axes, [layer.name for layer in worst])
    return _svg(figure, "SQNR of every layer")


def _bars(rows: Sequence[Row], values: Sequence[float], label: str, title: str) -> str | None:
    if not rows:
        return None
    figure, axes = _figure(len(rows))
    bars = axes.barh(range(len(rows)), values, color=_MAIN, height=0.6)
    axes.bar_label(bars, fmt="%.4g", padding=4, color=_INK)
    axes.margins(x=0.15)
    axes.set_xlabel(label)
    _name_rows(axes, [row.title for row in rows])
    return _svg(figure, title)


def _figure(rows: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=(_WIDTH, 0.9 + _ROW * rows), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_INK)
    axes.tick_params(colors=_INK)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.label.set_color(_INK)
    axes.grid(axis="x", alpha=0.15, color=_INK)
    axes.set_axisbelow(True)
    return figure, axes


def _name_rows(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [_short(text.clean(name)) for name in names])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)  # a name is not a formula
    axes.invert_yaxis()


def _short(name: str) -> str:
    return name if len(name) <= 36 else f"…{name[-35:]}"


def _svg(figure: Figure, title: str) -> str:
    """The figure as an ``<svg>`` that scales with the page; equal figures give equal text."""
    buffer = io.StringIO()
    options = {"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 10}
    with matplotlib.rc_context(options):
        figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.S)
    drawn = re.sub(r' width="[^"]*pt"| height="[^"]*pt"| xmlns(:\w+)?="[^"]*"', "", drawn)
    drawn = drawn.replace("xlink:href", "href").replace(_INK, "currentColor")
    return drawn.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
