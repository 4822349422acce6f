"""How the calls of every row spread, and how long every stage took: rows of marks on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from deployfold.reporting import text
from deployfold.reporting.report import Report

from .svg import add, axis, drawing, markup, percent

_HEIGHT = 22.0
_LOW, _Q1, _MEDIAN, _Q3, _HIGH = 1, 5, 10, 15, 19
"""Places of 5, 25, 50, 75 and 95 % among the 21 quantiles of a latency."""


@dataclass(frozen=True)
class Strip:
    """One row: its name, its marks, and its value in words."""

    name: str
    marks: Markup
    value: str


@dataclass(frozen=True)
class Strips:
    """Rows on one scale, and the scale."""

    rows: tuple[Strip, ...]
    scale: Markup


def latency_strips(report: Report) -> Strips | None:
    """The middle half of every row's calls, with its median, and whiskers at 5 and 95 %.

    ``None`` where no row has the quantiles of its calls.
    """
    rows = [
        (row.title, row.latency.quantiles_ms)
        for row in report.rows
        if row.latency and len(row.latency.quantiles_ms) == 21
    ]
    if not rows:
        return None
    most = 1.03 * max(marks[_HIGH] for _, marks in rows) or 1.0
    return Strips(tuple(_latencies(name, marks, most) for name, marks in rows), _scale(most, "ms"))


def stage_strips(report: Report) -> Strips | None:
    """The seconds of every stage, with its peak memory; ``None`` where they were not kept."""
    if not report.stages:
        return None
    most = 1.03 * max(stage.seconds for stage in report.stages) or 1.0
    rows = []
    for stage in report.stages:
        peak = "" if stage.peak_bytes is None else f" · {text.size(stage.peak_bytes)}"
        svg = drawing(f"{stage.stage}: {stage.seconds:.1f} s", _HEIGHT)
        add(svg, "rect", x=0, y=5, height=12, width=percent(stage.seconds / most), class_="bar")
        rows.append(Strip(text.clean(stage.stage), markup(svg), f"{stage.seconds:.1f} s{peak}"))
    return Strips(tuple(rows), _scale(most, "s"))


def _latencies(name: str, marks: Sequence[float], most: float) -> Strip:
    at = [percent(min(1.0, mark / most)) for mark in marks]
    median = text.digits(marks[_MEDIAN])
    low, high = text.digits(marks[_LOW]), text.digits(marks[_HIGH])
    svg = drawing(f"{name}: median {median} ms, 90 % of calls from {low} to {high} ms", _HEIGHT)
    add(svg, "line", x1=at[_LOW], x2=at[_HIGH], y1=11, y2=11, class_="whisker")
    width = percent((marks[_Q3] - marks[_Q1]) / most)
    add(svg, "rect", x=at[_Q1], width=width, y=4, height=14, class_="bar")
    add(svg, "line", x1=at[_MEDIAN], x2=at[_MEDIAN], y1=2, y2=20, class_="median")
    return Strip(text.clean(name), markup(svg), f"{median} ms · {low} to {high}")


def _scale(most: float, unit: str) -> Markup:
    svg = drawing(f"Scale from 0 to {most:.3g} {unit}", _HEIGHT)
    axis(svg, 0, 4, most, unit)
    return markup(svg)
