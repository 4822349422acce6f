"""The outcome of a build in a few lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deployfold.config import row_names
from deployfold.util.grouping import grouped

from . import text
from .fold import FoldSummary
from .report import Report, ThresholdResult
from .row import Row

MOST_NOTES = 12
"""Notes of a build in its summary."""


@dataclass(frozen=True)
class Line:
    """A label, its text, and whether that is good news."""

    label: str
    value: str
    tone: Literal["plain", "good", "bad", "warn"] = "plain"


def summary_lines(report: Report) -> list[Line]:
    """Status, folding, the fastest and the smallest artifact, notes and missed limits."""
    lines = []
    status = report.status
    if status.state != "complete":
        tone: Literal["bad", "warn"] = "bad" if status.state == "failed" else "warn"
        lines.append(Line("status", text.clean(str(status)), tone))
    if report.fold is not None:
        lines.extend(_fold(report.fold))
    lines.extend(_fastest_and_smallest(report.rows))
    lines.extend(_peak(report.rows))
    told = report.fold.reestimation if report.fold else None
    notes = grouped([note for note in report.notes if note != told])
    lines.extend(Line("note", text.clean(note)) for note in notes[:MOST_NOTES])
    if len(notes) > MOST_NOTES:
        lines.append(Line("note", f"{len(notes) - MOST_NOTES} more notes stand in report.json"))
    lines.extend(_threshold(result) for result in report.thresholds)
    return lines


def _fold(fold: FoldSummary) -> list[Line]:
    changed = text.parameters_changed(fold.parameters_before, fold.parameters_after)
    value = f"{fold.outcome}, {changed}"
    lines = [Line("changed", text.clean(fold.reestimation), "warn")] if fold.reestimation else []
    lines.append(Line("folded", value, "good" if fold.folded and not fold.left else "plain"))
    for kind, count in fold.norm_affines.items():
        lines.append(Line("folded", f"affine parameters of {count} {kind}", "good"))
    if fold.left:
        lines.append(Line("left", f"{len(fold.left)} BatchNorm", "warn"))
    check = fold.verification
    if check is not None:
        exact = check.float64_relative_difference
        parts = [] if exact is None else [f"float64 relative {text.difference(exact)}"]
        parts.append(f"native max |Δ| {text.difference(check.native_max_abs_diff)}")
        many = "1 input" if check.inputs == 1 else f"{check.inputs} inputs"
        note = f" ({text.clean(check.note)})" if check.note else ""
        lines.append(Line("verified", f"{', '.join(parts)}, on {many}{note}"))
    return lines


def _fastest_and_smallest(rows: tuple[Row, ...]) -> list[Line]:
    lines = []
    faster = [
        (row.latency.speedup, row)
        for row in rows[1:]
        if row.latency and row.latency.speedup and row.latency.speedup.low > 1.0
    ]
    if faster:
        speedup, row = max(faster, key=lambda pair: pair[0].value)
        value = f"{text.clean(row.title)}, {text.speedup(speedup)}"
        lines.append(Line("fastest", value, "good"))
    elif others := [row for row in rows[1:] if row.latency]:
        # Only a build begins with the original; bench takes any file for its baseline.
        first = "the original" if rows[0].name in row_names.ORIGINALS else text.clean(rows[0].title)
        bounded = any(r.latency and r.latency.speedup and r.latency.speedup.bounded for r in others)
        value = f"nothing is faster than {first}" if bounded else "too few rounds to say"
        lines.append(Line("fastest", value, "warn"))
    sized = [(row.bytes, row) for row in rows if row.bytes]
    if len(sized) > 1:
        count, row = min(sized, key=lambda pair: pair[0])
        lines.append(Line("smallest", f"{text.clean(row.title)}, {text.size(count)}"))
    return lines


def _peak(rows: tuple[Row, ...]) -> list[Line]:
    """The row with the greatest throughput of a sweep."""
    best: tuple[float, int, Row] | None = None
    for row in rows:
        for point in row.sweep:
            if point.throughput is not None and (best is None or point.throughput > best[0]):
                best = (point.throughput, point.batch, row)
    if best is None:
        return []
    rate, batch, row = best
    value = f"{text.digits(rate)} samples/s, {text.clean(row.title)} at batch {batch}"
    return [Line("peak", value)]


def _threshold(result: ThresholdResult) -> Line:
    row = f" ({result.row})" if result.row else ""
    value = "not measured" if result.value is None else f"{result.value:.4g}"
    word = "met" if result.passed else "missed"
    sentence = f"{result.name} {result.limit:.4g} {word}: {value}{row}"
    return Line("limit", text.clean(sentence), "good" if result.passed else "bad")
