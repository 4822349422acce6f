"""The chart to decide by: latency against accuracy, with the size of the file as the area.

Every row has a lane of its own, so no name hides another. The lanes are in the order of accuracy.
Rows whose outputs equal the original's to float32 rounding share a band at the top, since the
differences between them mean nothing; below it the distance of two lanes grows with the loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from deployfold.reporting import text
from deployfold.reporting.intervals import latency_interval
from deployfold.reporting.metrics import ROUNDING_DB
from deployfold.reporting.recommendation import loses
from deployfold.reporting.report import Report
from deployfold.reporting.row import Row

from .svg import Element, add, axis, drawing, markup, percent

LANE = 42.0
"""Pixels from lane to lane at least: a line of text and the largest circle."""
_STRETCH = 1.6
"""Pixels for a decibel, or a tenth of a point of accuracy, between two lanes."""
_FARTHEST = 90.0
"""Pixels between two lanes at most."""
RADIUS = 11.0
"""Pixels: of the largest file's circle."""
_LEAST_RADIUS = 3.5
_NAME = 24
"""Characters of a name in the chart; the table has it in full."""


@dataclass(frozen=True)
class _Lane:
    row: Row
    accuracy: float
    """The order of the lanes: decibels, or tenths of a point of a task metric or with labels."""
    written: str
    equal: bool


def decision_chart(report: Report, chosen: Row | None) -> Markup | None:
    """The chart; ``None`` where fewer than two rows have both a latency and an accuracy."""
    lanes = _lanes(report)
    if not lanes:
        return None
    places = _places(lanes)
    most = 1.04 * max(_farthest(lane.row) for lane in lanes)
    bottom = places[-1] + RADIUS + 8
    svg = drawing("Latency against accuracy of every measured artifact", bottom + 22)
    _band(svg, lanes, places)
    axis(svg, 0, bottom, most, "ms")
    largest = max((lane.row.bytes or 0 for lane in lanes), default=0)
    written = ""
    for lane, y in zip(lanes, places, strict=True):
        if lane.written != written:
            add(svg, "text", lane.written, x=-10, y=y + 4, text_anchor="end", class_="tick")
        written = lane.written
        kind = "chosen" if lane.row is chosen else "plain"
        kind = "lost" if loses(lane.row, report.rows[0]) else kind
        _mark(svg, lane.row, y, most, largest, kind)
    return markup(svg)


def drawn_rows(report: Report) -> list[Row]:
    """The rows in the chart; empty where there is none."""
    return [lane.row for lane in _lanes(report)]


def _lanes(report: Report) -> list[_Lane]:
    """The lanes by accuracy, then by latency; empty of fewer than two."""
    measured = [row for row in report.rows if row.latency]
    with_labels = [_with_labels(row) for row in measured]
    if all(with_labels):
        lanes = [lane for lane in with_labels if lane]
    else:
        found = (_with_sqnr(row, row is report.rows[0]) for row in measured)
        lanes = [lane for lane in found if lane]
    lanes.sort(key=lambda lane: (-lane.accuracy, _median(lane.row)))
    return lanes if len(lanes) > 1 else []


def _with_labels(row: Row) -> _Lane | None:
    if row.first_score is not None:
        _, score = row.first_score
        return _Lane(row, 1000 * score, f"{score:.4g}", equal=False)
    value = row.accuracy.accuracy if row.accuracy else None
    return None if value is None else _Lane(row, 1000 * value, text.percent(value), equal=False)


def _with_sqnr(row: Row, original: bool) -> _Lane | None:
    """The original is as accurate as itself."""
    if row.accuracy is None and not original:
        return None
    sqnr = math.inf if original or row.accuracy is None else row.accuracy.sqnr_db
    if sqnr >= ROUNDING_DB:
        return _Lane(row, ROUNDING_DB, "equal", equal=True)
    return _Lane(row, -math.inf if math.isnan(sqnr) else sqnr, text.decibels(sqnr), equal=False)


def _places(lanes: Sequence[_Lane]) -> list[float]:
    """The vertical place of every lane in pixels."""
    places = [LANE - RADIUS]
    for above, below in pairwise(lanes):
        gap = LANE
        if not below.equal:
            loss = (above.accuracy - below.accuracy) * _STRETCH
            gap = max(LANE, min(_FARTHEST, loss if math.isfinite(loss) else _FARTHEST))
        places.append(places[-1] + gap)
    return places


def _band(svg: Element, lanes: Sequence[_Lane], places: Sequence[float]) -> None:
    equal = [place for lane, place in zip(lanes, places, strict=True) if lane.equal]
    if equal:
        add(svg, "rect", x=0, width="100%", y=0, height=equal[-1] + RADIUS + 4, class_="band")


def _mark(svg: Element, row: Row, y: float, most: float, largest: int, kind: str) -> None:
    """The interval, the circle and the name of a row."""
    share = _median(row) / most
    bounds = latency_interval(row)
    group = add(svg, "g", class_=kind)
    add(group, "title", _tip(row))
    if bounds is not None:
        low, high = (percent(bound / most) for bound in bounds)
        add(group, "line", x1=low, x2=high, y1=y, y2=y, class_="whisker")
        for end in (low, high):
            add(group, "line", x1=end, x2=end, y1=y - 4, y2=y + 4, class_="whisker")
    radius = _LEAST_RADIUS
    if row.bytes and largest:
        radius = max(radius, RADIUS * math.sqrt(row.bytes / largest))
    hollow = "" if row.bytes else " unknown"
    add(group, "circle", cx=percent(share), cy=y, r=radius, class_=f"dot{hollow}")
    anchor = "start" if share < 0.36 else "end" if share > 0.64 else "middle"
    name = shortened(row.title, _NAME)
    add(
        group, "text", f"✓ {name}" if kind == "chosen" else name,
        x=percent(share), y=y - RADIUS - 5, text_anchor=anchor, class_="name",
    )  # fmt: skip


def _tip(row: Row) -> str:
    """The text that a mouse over the mark shows."""
    bounds = latency_interval(row)
    median = text.digits(_median(row))
    interval = ""
    if bounds is not None:
        low, high = map(text.digits, bounds)
        interval = f" [{low}, {high}]"
    size = f", {text.size(row.bytes)}" if row.bytes else ""
    return f"{row.title}: {median}{interval} ms{size}"


def shortened(name: str, most: int) -> str:
    """``name`` in at most ``most`` characters, its middle left out where it is longer."""
    name = text.clean(name)
    if len(name) <= most:
        return name
    tail = most // 2 - 1
    return f"{name[: most - tail - 1]}…{name[-tail:]}"


def _median(row: Row) -> float:
    return row.latency.median_ms if row.latency else math.inf


def _farthest(row: Row) -> float:
    """The greatest latency to be drawn of a row; never 0."""
    bounds = latency_interval(row)
    return max(_median(row), bounds[1] if bounds else 0.0, 1e-9)
