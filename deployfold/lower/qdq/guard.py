"""The accuracy guard: measures on held-back samples and puts layers back until it holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deployfold.errors import AccuracyError
from deployfold.export.session import Array, open_session, run_session
from deployfold.numerics import max_abs_diff, sqnr_db
from deployfold.quantization import GuardSpec
from deployfold.spec import Precision

from .quantise import LayerResult

_ROUNDS = 6
"""Times that layers are put back and everything else is quantised anew."""

_MARGIN_DB = 0.3
"""Aimed at beyond the limit, since the prediction is not exact."""


@dataclass(frozen=True)
class Measured:
    """A quantised model against fp32 on the same samples.

    Attributes:
        sqnr_db: of the worst output, in dB, over all samples.
        noise: noise power over signal power of that output.
        agreement: share of samples whose top-1 class stayed; ``None`` for what is no classifier.
        accuracy, reference_accuracy: share of right classes; ``None`` without labels.
        max_abs_diff: of all outputs.
    """

    sqnr_db: float
    noise: float
    agreement: float | None
    accuracy: float | None
    reference_accuracy: float | None
    max_abs_diff: float


@dataclass(frozen=True, eq=False)
class Step:
    """One quantised model."""

    results: Sequence[LayerResult]
    measured: Measured

    @property
    def share(self) -> float:
        """The share of the layers' multiply-accumulates that are quantised."""
        total = sum(result.macs for result in self.results)
        kept = sum(result.macs for result in self.results if result.quantised is not None)
        return kept / total if total else 0.0


class Measurer:
    """Compares models with an fp32 one, which runs once.

    Args:
        reference: the fp32 ONNX.
        feeds: samples by input name.
        labels: the class of every sample, those of a batch one after another.
    """

    def __init__(
        self, reference: Path, feeds: Sequence[Mapping[str, Array]], labels: Sequence[int] | None
    ) -> None:
        self._feeds = feeds
        self._expected = self._run(reference)
        self._labels = None if labels is None else np.asarray(labels)

    def measure(self, model: Path) -> Measured:
        """Run ``model`` on the samples, without ONNX Runtime's optimisations.

        Raises:
            ExportError: it does not run.
        """
        actual = self._run(model)
        pairs = [
            (expected, found)
            for expected, found in zip(self._expected, actual, strict=True)
            if expected[0].dtype.kind == "f"
        ]
        worst = min((sqnr_db(expected, found) for expected, found in pairs), default=math.inf)
        agreement = accuracy = right = None
        if len(pairs) == 1 and pairs[0][0][0].ndim == 2 and pairs[0][0][0].shape[1] > 1:
            before, after = (np.concatenate(part).argmax(1) for part in pairs[0])
            agreement = float((before == after).mean())
            if self._labels is not None and len(self._labels) == len(before):
                accuracy = float((after == self._labels).mean())
                right = float((before == self._labels).mean())
        return Measured(
            sqnr_db=worst,
            noise=0.0 if worst == math.inf else 10 ** (-worst / 10),
            agreement=agreement,
            accuracy=accuracy,
            reference_accuracy=right,
            max_abs_diff=max((max_abs_diff(e, f) for e, f in pairs), default=0.0),
        )

    def _run(self, model: Path) -> list[list[Array]]:
        session = open_session(model, optimize=False)
        runs = [run_session(session, feed) for feed in self._feeds]
        return [list(output) for output in zip(*runs, strict=True)]


def keep_accuracy(
    attempt: Callable[[frozenset[str]], Step],
    measure_costs: Callable[[], dict[str, float]],
    guard: GuardSpec,
    precision: Precision,
) -> tuple[Step, dict[str, str]]:
    """Quantise all layers, then fewer, until the limits hold.

    Layers are put back in the order of what each alone costs the outputs for every
    multiply-accumulate that goes back, as many at a time as the sum of these costs predicts.

    Args:
        attempt: quantises all layers but those named, and measures on held-back samples.
        measure_costs: for every layer, by name, noise over signal at the outputs with it alone
            quantised, on calibration samples.

    Returns:
        The model that holds, and why each layer that was put back was.

    Raises:
        AccuracyError: the limits do not hold with the least share of the layers that is allowed.
    """
    step = attempt(frozenset())
    if not guard.enabled or _holds(step.measured, guard):
        return step, {}
    everything = {result.layer.name: result for result in step.results}
    possible = sum(result.macs for result in step.results if result.quantised is not None)
    costs = measure_costs()
    order = sorted(
        costs, key=lambda name: costs[name] / max(everything[name].macs, 1), reverse=True
    )
    removed: list[str] = []
    for _ in range(_ROUNDS):
        wanted = _wanted(step.measured, guard)
        remaining = sum(costs[name] for name in order if name not in removed)
        goal, taken = remaining * wanted, len(removed)
        while remaining > goal and len(removed) < len(order):
            remaining -= costs[order[len(removed)]]
            removed.append(order[len(removed)])
        if len(removed) == taken and taken < len(order):
            removed.append(order[taken])
        share = 1 - sum(everything[name].macs for name in removed) / possible
        if share < guard.min_int8_share:
            raise AccuracyError(_refusal(step, guard, share, precision))
        step = attempt(frozenset(removed))
        if _holds(step.measured, guard):
            return step, {
                name: f"put back by the guard: alone in {_title(precision)} it costs "
                f"{_db(costs[name])}"
                for name in removed
            }
    raise AccuracyError(_refusal(step, guard, step.share, precision))


def _holds(measured: Measured, guard: GuardSpec) -> bool:
    if not measured.sqnr_db >= guard.min_sqnr_db:
        return False
    if guard.min_agreement is None or measured.agreement is None:
        return True
    return measured.agreement >= guard.min_agreement


def _wanted(measured: Measured, guard: GuardSpec) -> float:
    """The share of the present noise that may stay."""
    if not math.isfinite(measured.sqnr_db):
        return 0.1
    by_noise = 10 ** ((measured.sqnr_db - guard.min_sqnr_db - _MARGIN_DB) / 10)
    # How agreement follows from noise depends on the classes: go on in steps of 2 dB.
    return min(by_noise, 0.63) if by_noise < 1 else 0.63


def _refusal(step: Step, guard: GuardSpec, share: float, precision: Precision) -> str:
    measured = step.measured
    agreement = "" if measured.agreement is None else f" and {measured.agreement:.1%} agreement"
    limit = f"{guard.min_sqnr_db:g} dB"
    if guard.min_agreement is not None:
        limit += f" and {guard.min_agreement:.1%}"
    return (
        f"{_title(precision)} gives {measured.sqnr_db:.1f} dB{agreement} with {step.share:.0%} of "
        f"the multiply-accumulates in it; for {limit} less than {max(share, 0):.0%} would be left, "
        f"and {guard.min_int8_share:.0%} is the least."
    )


def _title(precision: Precision) -> str:
    return precision.value.upper()


def _db(noise: float) -> str:
    return "nothing measurable" if noise <= 0 else f"{-10 * math.log10(noise):.1f} dB SQNR"
