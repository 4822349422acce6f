"""What stands below the table: why a row has no number, what to know of a row, how it was run."""

from __future__ import annotations

from dataclasses import dataclass

from . import text
from .model import Report, Row
from .stability import stability_lines


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
        notes = [*row.notes, *_of_row(row)]
        others[row.name] = tuple(dict.fromkeys(number(note) for note in notes))
    return Footnotes(tuple(order), why, others, tuple(_plain(report)))


def _of_row(row: Row) -> list[str]:
    """What the row's numbers need said."""
    notes = []
    if row.latency is not None:
        gpu_time = text.gpu_time(row.latency)
        notes += [gpu_time] if gpu_time else []
        speedup = row.latency.speedup
        if speedup is not None and not speedup.bounded:
            rounds = row.latency.rounds
            many = "1 round is" if rounds == 1 else f"{rounds} rounds are"
            notes.append(f"{many} too few for an interval")
    if row.int8 is not None and not row.int8.calibrated:
        notes.append(
            "uncalibrated: its ranges come from random inputs, so its accuracy here says nothing of"
            " its accuracy on real ones"
        )
    return notes


def _plain(report: Report) -> list[str]:
    lines = [f"Machine: {text.machine(report)}", f"Input: {text.inputs(report)}"]
    lines += _of_accuracy(report)
    latencies = [row.latency for row in report.rows if row.latency is not None]
    if not latencies:
        return lines
    speedups = [latency.speedup for latency in latencies if latency.speedup is not None]
    rounds = max(latency.rounds for latency in latencies)
    words = f"Speed-up: median of {rounds} interleaved rounds with its 95 % interval"
    others = [s for s in speedups if not s.low == s.high == 1.0]
    if any(speedup.bounded for speedup in others):
        undecided = any(speedup.undecided for speedup in others)
        lines.append(f"{words}; ≈ where that holds 1" if undecided else words)
    return [*lines, *stability_lines(report)]


def _of_accuracy(report: Report) -> list[str]:
    """Over how many samples and outputs, where that is not one inference with one output."""
    found = [row.accuracy for row in report.rows if row.accuracy is not None]
    batch = report.inputs[0].shape[0] if report.inputs and report.inputs[0].shape else 1
    samples = max((one.samples or 0 for one in found), default=0)
    outputs = max((len(one.outputs) for one in found), default=0)
    parts = []
    if samples > batch and f"{samples} samples" not in report.input_data:
        parts.append(f"over {samples:,} samples")
    if outputs:
        parts.append(f"of {outputs} outputs the worst (report.json has each)")
    return [f"Accuracy: {', '.join(parts)}"] if parts else []
