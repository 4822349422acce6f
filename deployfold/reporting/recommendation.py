"""Recommends one artifact of a report, in one sentence.

An artifact is a candidate if all of these hold:

1. its latency was measured here, and the 95 % interval of its speed-up lies above 1;
2. its accuracy was measured: by the first task metric, else by labels, else by SQNR; a metric or
   labels lose no more than a point, and the SQNR is no less than 30 dB;
3. its low precision, if it has one, was calibrated on real inputs.

The fastest candidate is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import text
from .intervals import faster, settled_speedup
from .metrics import METRICS, ROUNDING_DB, score_metric
from .report import Report
from .row import Row


@dataclass(frozen=True)
class Recommendation:
    """The artifact to take; ``row`` is ``None`` where the report gives no reason to take one."""

    row: Row | None
    sentence: str


def recommend(report: Report) -> Recommendation:
    """The artifact to take, or why there is none."""
    if report.status.state != "complete":
        was = "was " if report.status.state == "interrupted" else ""
        return Recommendation(None, text.sentence(f"The build {was}{report.status}"))
    if not report.rows:
        return Recommendation(None, "The report has no artifacts.")
    baseline = report.rows[0]
    if not any(row.latency for row in report.rows):
        reason = baseline.not_measured or report.rows[-1].not_measured or text.NO_REASON
        return Recommendation(None, text.sentence(f"No latency was measured: {reason}"))
    candidates = [row for row in report.rows[1:] if faster(row) and accurate(row, baseline)]
    if not candidates:
        first = text.clean(baseline.title)
        if any(settled_speedup(row) for row in report.rows[1:]):
            return Recommendation(
                None, f"Nothing measured here is faster than {first} and keeps its accuracy."
            )
        return Recommendation(
            None, f"Too few rounds to say whether anything is faster than {first}."
        )
    row = max(candidates, key=lambda one: METRICS["speedup"].read(one) or 0.0)
    return Recommendation(row, describe(row, baseline))


def accurate(row: Row, baseline: Row) -> bool:
    """The row meets conditions 2 and 3."""
    judged = row.accuracy is not None or bool(row.scores)
    calibrated = row.quantization is None or row.quantization.calibrated
    return judged and calibrated and not loses(row, baseline)


def loses(row: Row, baseline: Row) -> bool:
    """The row's outputs are further from the original's than condition 2 allows."""
    if row.first_score is not None:
        return score_metric(row.first_score[0]).lost(row, baseline)
    with_labels = METRICS["accuracy"]
    judge = METRICS["sqnr"] if with_labels.read(row) is None else with_labels
    return judge.lost(row, baseline)


def describe(row: Row, baseline: Row) -> str:
    """``ONNX Runtime: 1.55× as fast as PyTorch here [1.40, 1.98], the same outputs, 46.7 MB``.

    A speed-up whose row is not stable says so behind its interval.
    """
    parts = []
    speedup = settled_speedup(row)
    if speedup is not None:
        bounds = f"[{text.ratio(speedup.low)}, {text.ratio(speedup.high)}]"
        first = text.clean(baseline.title)
        doubt = "" if row.latency is None or row.latency.stable else " (not stable)"
        parts.append(f"{text.ratio(speedup.value)}× as fast as {first} here {bounds}{doubt}")
    parts += [outputs(row, baseline), text.size(row.bytes) if row.bytes else ""]
    return f"{text.clean(row.title)}: {', '.join(part for part in parts if part)}."


def outputs(row: Row, baseline: Row) -> str:
    """How the outputs differ from the original's, in words; empty where that was not measured."""
    if row.first_score is not None:
        name, value = row.first_score
        original = baseline.scores.get(name)
        of = "" if original is None else f" ({original:.4g} in the original)"
        return f"{text.clean(name)} {value:.4g}{of}"
    accuracy = row.accuracy
    if accuracy is None:
        return ""
    if accuracy.accuracy is not None:
        own = text.percent(accuracy.accuracy)
        first = baseline.accuracy.accuracy if baseline.accuracy else None
        if first is None:
            return f"{own} accuracy"
        points = 100 * (first - accuracy.accuracy)
        change = f"{abs(points):.2f} points {'lost' if points > 0 else 'gained'}"
        return f"{own} accuracy ({change if abs(points) >= 0.005 else 'as the original'})"
    if accuracy.sqnr_db >= ROUNDING_DB:
        return "the same outputs to float32 rounding"
    if accuracy.top1_agreement is None or not accuracy.samples or accuracy.samples < 2:
        return f"outputs to {text.decibels(accuracy.sqnr_db)} SQNR"
    share = text.percent(accuracy.top1_agreement)
    return (
        f"outputs to {text.decibels(accuracy.sqnr_db)} SQNR, the same first class for {share} of"
        f" {accuracy.samples:,} samples"
    )


def not_measured(report: Report) -> dict[str, list[Row]]:
    """The rows without a latency, by the reason."""
    found: dict[str, list[Row]] = {}
    for row in report.rows:
        if row.latency is None:
            reason = text.clean(row.not_measured or text.NO_REASON)
            found.setdefault(reason, []).append(row)
    return found
