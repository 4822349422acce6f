"""What stands below the table on how far its times can be relied on, and how to make it further."""

from __future__ import annotations

from collections.abc import Sequence

from . import text
from .model import Latency, Report, Row

FEW_ROUNDS = 6
"""Of fewer rounds a median has no 95 % interval."""
BUSY = 0.25
"""CPUs that other programs may keep busy before it is worth saying."""
_GOOD_GOVERNORS = {"performance"}


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
    if state is not None and (said := text.gpu(state)):
        lines.append(f"GPU after the last round: {said}")
    return lines


def _why(rows: Sequence[Row]) -> str:
    """The reasons; of several rows what they share, and the report has each one's."""
    latencies = [row.latency for row in rows if row.latency is not None]
    if len(latencies) == 1:
        return latencies[0].note or ""
    parts = []
    rounds = min(one.rounds for one in latencies)
    if rounds < FEW_ROUNDS:
        plural = "" if rounds == 1 else "s"
        parts.append(f"{rounds} round{plural}, too few for an interval")
    variations = [one.variation for one in latencies if one.variation is not None]
    if variations and rounds > 1:
        parts.append(f"coefficient of variation up to {100 * max(variations):.3g} %")
    return "; ".join([*parts, "report.json says why"])


def _advice(report: Report, rows: Sequence[Row]) -> str:
    """What to do, from what was seen of the machine."""
    environment = report.environment
    latencies = [row.latency for row in rows if row.latency is not None]
    steps = []
    others = max((one.other_cpus or 0.0 for one in latencies), default=0.0)
    said = len(latencies) == 1 and "close them" in (latencies[0].note or "")
    if others > BUSY and environment.cpus and not said:
        steps.append(_crowded(others, environment.cpus, environment.threads))
    governor = environment.governor
    if governor and not set(governor.split(", ")) <= _GOOD_GOVERNORS:
        steps.append(f"The CPU governor is {governor}: sudo cpupower frequency-set -g performance.")
    if any(one.gpu and one.gpu.throttled_by for one in latencies):
        steps.append("Lock the GPU's clocks: sudo nvidia-smi -lgc MHZ.")
    if any(_short(one) for one in latencies):
        steps.append("Allow more time with --max-seconds.")
    if not steps and not said:
        steps.append("Close other programs, or allow more time with --max-seconds.")
    return " ".join(steps)


def _crowded(others: float, cpus: int, threads: int) -> str:
    fit = max(1, int(cpus - others + BUSY))
    fewer = f", or use --threads {fit}" if threads > fit else ""
    return f"Other programs kept {others:.1f} of {cpus} CPUs busy: close them{fewer}."


def _short(latency: Latency) -> bool:
    return latency.rounds < FEW_ROUNDS or "time ran out" in (latency.note or "")
