"""What stands below the table: why a row has no number, what to know of a row, how it was run."""

from __future__ import annotations

from dataclasses import dataclass

from . import text
from .model import Report, Row


@dataclass(frozen=True)
class Footnotes:
    """Numbered sentences, and the numbers that belong to each row by its name.

    ``numbered[i]`` is note ``i + 1``; ``why`` holds the note that explains a row's missing
    latency; ``plain`` are the unnumbered lines.
    """

    numbered: tuple[str, ...]
    why: dict[str, int]
    others: dict[str, tuple[int, ...]]
    plain: tuple[str, ...]

    def mark(self, numbers: tuple[int, ...]) -> str:
        """The superscript of some notes: ``¹``, or ``¹ ²``."""
        return " ".join(str(number).translate(text.SUPERSCRIPTS) for number in numbers)


def footnotes(report: Report) -> Footnotes:
    """Collect the notes of all rows; the same sentence has one number."""
    order: dict[str, int] = {}

    def number(sentence: str) -> int:
        return order.setdefault(text.clean(sentence), len(order) + 1)

    why: dict[str, int] = {}
    others: dict[str, tuple[int, ...]] = {}
    for row in report.rows:
        if row.latency is None:
            why[row.name] = number(row.not_measured or "no reason was recorded")
        notes = [*row.notes, *_of_latency(row)]
        others[row.name] = tuple(dict.fromkeys(number(note) for note in notes))
    return Footnotes(tuple(order), why, others, tuple(_plain(report)))


def _of_latency(row: Row) -> list[str]:
    copies = text.copies(row.latency) if row.latency else None
    return [copies] if copies else []


def _plain(report: Report) -> list[str]:
    lines = [f"Machine: {text.machine(report)}", f"Input: {text.inputs(report)}"]
    latencies = [row.latency for row in report.rows if row.latency is not None]
    if not latencies:
        return lines
    speedups = [latency.speedup for latency in latencies if latency.speedup is not None]
    rounds = max(latency.rounds for latency in latencies)
    words = f"Speed-up: median of {rounds} interleaved rounds with its 95 % interval"
    others = [s for s in speedups if not s.low == s.high == 1.0]
    if others:
        undecided = any(speedup.undecided for speedup in others)
        lines.append(f"{words}; ≈ where that holds 1" if undecided else words)
    unstable = [row for row in report.rows if row.latency is not None and not row.latency.stable]
    if unstable:
        lines.append(
            f"Not stable: {_instability(unstable)}."
            " Close other programs, or allow more time with --max-seconds."
        )
    return lines


def _instability(rows: list[Row]) -> str:
    """Which rows, and why; of several, the report has the reasons."""
    if len(rows) > 1:
        return text.clean(f"{'; '.join(row.title for row in rows)} (report.json says why)")
    note = rows[0].latency.note if rows[0].latency else None
    return text.clean(f"{rows[0].title} ({note})" if note else rows[0].title)
