"""The notes below the table: reasons for missing numbers, conditions of the run, its stability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deployfold.util.grouping import grouped

from . import text
from .conditions import SLACK, fitting_threads
from .intervals import MIN_FOR_INTERVAL
from .report import Report
from .row import Row

ENOUGH_ROUNDS = 30
"""Fewer rounds hardly show whether successive ones are alike. Under an autocorrelation of 0.6 the
intervals of 6 rounds hold the true value in 88 % of runs, of 15 in 89 %, of 30 in 99 %
(``tests/benchmarks/interval_coverage.py``)."""
MOST = 6
"""Footnotes that a row has at most."""
_GOOD_GOVERNORS = {"performance"}


@dataclass(frozen=True)
class Footnotes:
    """Numbered sentences, and for each row, by its name, the numbers of its sentences.

    Attributes:
        numbered: ``numbered[i]`` is note ``i + 1``.
        why: the number of the note that explains a missing latency.
        others: the numbers of the other notes.
        plain: lines without a number, about the whole table.
    """

    numbered: tuple[str, ...]
    why: dict[str, int]
    others: dict[str, tuple[int, ...]]
    plain: tuple[str, ...]

    def mark(self, numbers: tuple[int, ...]) -> str:
        """The superscript of some notes: ``¹``, or ``¹ ²``."""
        return " ".join(map(text.superscript, numbers))


def footnotes(report: Report) -> Footnotes:
    """Collect the notes of all rows; the same sentence has one number."""
    order: dict[str, int] = {}

    def number(sentence: str) -> int:
        return order.setdefault(text.clean(sentence), len(order) + 1)

    why: dict[str, int] = {}
    others: dict[str, tuple[int, ...]] = {}
    for row in report.rows:
        if row.latency is None:
            why[row.name] = number(row.not_measured or text.NO_REASON)
        notes = _limited([*row.notes, *_of_row(row)])
        others[row.name] = tuple(dict.fromkeys(number(note) for note in notes))
    return Footnotes(tuple(order), why, others, tuple(_plain(report)))


def _limited(notes: Sequence[str]) -> list[str]:
    """The notes of a row, those of one kind joined, in at most :data:`MOST` sentences."""
    found = grouped(notes)
    if len(found) <= MOST:
        return found
    return [*found[: MOST - 1], f"{len(found) - MOST + 1} more notes stand in report.json"]


def _of_row(row: Row) -> list[str]:
    """The notes that the row's numbers need."""
    notes = []
    if row.latency is not None:
        gpu_time = text.gpu_time(row.latency)
        notes += [gpu_time] if gpu_time else []
        speedup = row.latency.speedup
        if speedup is not None and not speedup.bounded:
            rounds = row.latency.rounds
            many = "1 round is" if rounds == 1 else f"{rounds} rounds are"
            notes.append(f"no speed-up: {many} too few for an interval")
    if row.quantization is not None and not row.quantization.calibrated:
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
        if any(speedup.undecided for speedup in others):
            words += "; ≈ if it contains 1"
        if rounds < ENOUGH_ROUNDS:
            words += (
                f". With fewer than {ENOUGH_ROUNDS} rounds the interval can be too narrow where the"
                " machine was slow for a while"
            )
        lines.append(words)
    overtime = max((latency.overtime_s or 0.0 for latency in latencies), default=0.0)
    if overtime:
        lines.append(
            f"Measuring went {overtime:.3g} s past --max-seconds, to complete the {rounds} rounds"
            " that an interval takes"
        )
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


def stability_lines(report: Report) -> list[str]:
    """How the rows were judged, which are not stable and why, and what to do about it."""
    measured = [row for row in report.rows if row.latency is not None]
    unstable = [row for row in measured if row.latency is not None and not row.latency.stable]
    lines = []
    if unstable:
        everything = len(unstable) == len(measured) > 1
        which = "every row" if everything else "; ".join(row.title for row in unstable)
        why = _why(unstable)
        advice = _advice(report, unstable)
        lines.append(text.clean(f"Not stable: {which}{f' ({why})' if why else ''}. {advice}"))
    elif measured:
        lines.append(
            "Stable: calls vary by at most 2.5 % (coefficient of variation; on a GPU 1 %, as for"
            " trtexec), intervals are within ±2 %"
        )
    state = next((row.latency.gpu for row in measured if row.latency and row.latency.gpu), None)
    if state is not None and (written := text.gpu(state)):
        lines.append(f"GPU after the last round: {written}")
    return lines


def _why(rows: Sequence[Row]) -> str:
    """The reason of one row, or the reasons that several rows share."""
    latencies = [row.latency for row in rows if row.latency is not None]
    if len(latencies) == 1:
        return latencies[0].note or ""
    parts = []
    rounds = min(one.rounds for one in latencies)
    if rounds < MIN_FOR_INTERVAL:
        plural = "" if rounds == 1 else "s"
        parts.append(f"{rounds} round{plural}, too few for an interval")
    variations = [one.variation for one in latencies if one.variation is not None]
    if variations and rounds > 1:
        parts.append(f"coefficient of variation up to {100 * max(variations):.3g} %")
    return "; ".join([*parts, "report.json says why"])


def _advice(report: Report, rows: Sequence[Row]) -> str:
    """Advice for stabler numbers, given the state of the machine."""
    environment = report.environment
    latencies = [row.latency for row in rows if row.latency is not None]
    steps = []
    others = max((one.other_cpus or 0.0 for one in latencies), default=0.0)
    said = len(latencies) == 1 and "contended" in latencies[0].doubts
    if others > SLACK and environment.cpus and not said:
        steps.append(_crowded(others, environment.cpus, environment.threads))
    governor = environment.governor
    if governor and not set(governor.split(", ")) <= _GOOD_GOVERNORS:
        steps.append(f"The CPU governor is {governor}: sudo cpupower frequency-set -g performance.")
    if any(one.gpu and one.gpu.throttled_by for one in latencies):
        steps.append("Lock the GPU's clocks: sudo nvidia-smi -lgc MHZ.")
    if any(one.rounds < MIN_FOR_INTERVAL or "time" in one.doubts for one in latencies):
        steps.append("Allow more time with --max-seconds.")
    if not steps and not said:
        steps.append("Close other programs, or allow more time with --max-seconds.")
    return " ".join(steps)


def _crowded(others: float, cpus: int, threads: int) -> str:
    fit = fitting_threads(cpus, others)
    fewer = f", or use --threads {fit}" if threads > fit else ""
    return f"Other programs kept {others:.1f} of {cpus} CPUs busy: close them{fewer}."
