"""The accuracy guard of quantised models: puts layers back until the accuracy holds.

1. The guard measures the cost of each layer alone on calibration samples: noise, and for a
   classifier the divergence of the class probabilities. If the model misses the SQNR limit, noise
   decides. If the model misses the agreement limit, divergence decides, because divergence rises
   with errors that can change the top class. If a task metric misses its limit, noise decides.
2. Layers go back in the order of cost per multiply-accumulate, as many as the sum of the costs
   predicts. This repeats until the limits hold.
3. A bisection between the last step that missed the limits and the one that holds them finds the
   least number of layers.
4. The guard then tries to quantise the largest of these layers again, one at a time, if their share
   is worth a measurement.
5. Steps 2 to 4 take the weights of the model with all layers quantised. In the end, the last choice
   that missed the limits and the one that holds them are fitted anew, because each layer makes up
   for the errors of those before it. Layers in front of the first that went back stay, and the
   others keep the strengths of their fits. The first choice that holds, and gains, stays.

The best of many models on few samples is often a lucky one, and other samples differ. Therefore the
likely agreement and the likely SQNR of the chosen model must hold the limits as well
(:mod:`deployfold.lowering.estimates`). If no model passes, the guard takes the first model with
measured figures that hold the limits, and the report says that others may miss them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from deployfold.config.accuracy import GuardSpec
from deployfold.config.precision import Precision
from deployfold.errors import AccuracyError
from deployfold.lowering.accuracy import Measured

from .quantise import LayerResult

_ROUNDS = 6
"""How often the guard puts more layers back and quantises the others anew."""

_REFINEMENTS = 5
"""How often the guard tries fewer layers once the limits hold."""

_MARGIN_DB = 0.3
"""Margin over the SQNR limit that the search aims at, because the prediction is not exact."""

_METRIC_SHARE = 0.5
"""The share of the noise that may stay while a task metric misses its limit: 3 dB a round."""

_WORTH = 0.01
"""Least share of the multiply-accumulates that is worth the time of a measurement."""


@dataclass(frozen=True, eq=False)
class Step:
    """One quantised model, layer by layer, and its accuracy."""

    results: Sequence[LayerResult]
    measured: Measured

    @property
    def share(self) -> float:
        """The quantised share of the layers' multiply-accumulates, 0 to 1."""
        total = sum(result.macs for result in self.results)
        kept = sum(result.macs for result in self.results if result.quantised is not None)
        return kept / total if total else 0.0


class Attempt(Protocol):
    """A function that quantises all layers except ``excluded``, and measures held-back samples.

    The layers take their weights from the model with all layers quantised; ``anew`` fits them to
    this one.
    """

    def __call__(self, excluded: frozenset[str], anew: bool = False) -> Step: ...


def keep_accuracy(
    attempt: Attempt,
    measure_costs: Callable[[], Mapping[str, Measured]],
    guard: GuardSpec,
    precision: Precision,
) -> tuple[Step, dict[str, str]]:
    """Quantise all layers, then fewer, until the limits hold, as the module describes.

    Args:
        measure_costs: a function that returns, for every layer by name, the accuracy on
            calibration samples with this layer alone quantised.

    Returns:
        The model that holds the limits, and by name the reason for each layer that went back.

    Raises:
        AccuracyError: the limits do not hold even with the least allowed share of quantised layers.
    """
    step = attempt(frozenset())
    if not guard.enabled or holds(step.measured, guard, surely=True):
        return step, {}
    search = _Search(attempt, measure_costs(), step, guard)
    held = search.until_it_holds()
    if held is None:
        raise AccuracyError(search.refusal(precision))
    removed, step = search.with_fewer(*held)
    return step, {
        name: f"put back by the guard: alone in {_title(precision)} it costs "
        f"{_db(search.costs[name].noise)}"
        for name in removed
    }


class _Search:
    """The search for the layers to put back; lists of layers are in the order of going back."""

    def __init__(
        self, attempt: Attempt, costs: Mapping[str, Measured], step: Step, guard: GuardSpec
    ) -> None:
        self.costs = costs
        self._attempt = attempt
        self._guard = guard
        self._step = step
        macs = {r.layer.name: r.macs for r in step.results if r.quantised is not None}
        total = sum(macs.values()) or 1
        self._shares = {name: max(count, 1) / total for name, count in macs.items()}
        self._failed = 0
        """The largest number of layers put back that did not reach the limits."""

    def until_it_holds(self) -> tuple[list[str], Step] | None:
        """The layers to put back, and the model that holds the limits; ``None`` without one."""
        removed: list[str] = []
        first = (removed, self._step) if holds(self._step.measured, self._guard) else None
        for _ in range(_ROUNDS):
            more = self._next(removed)
            if not more:
                break
            self._failed = len(removed)
            removed = removed + more
            self._step = self._attempt(frozenset(removed))
            if holds(self._step.measured, self._guard, surely=True):
                return removed, self._step
            if first is None and holds(self._step.measured, self._guard):
                first = removed, self._step
        if first is None and removed:
            self._step = self._attempt(frozenset(removed), anew=True)
            if holds(self._step.measured, self._guard):
                first = removed, self._step
        return first

    def with_fewer(self, removed: list[str], held: Step) -> tuple[list[str], Step]:
        """Reduce the layers to put back with up to :data:`_REFINEMENTS` more attempts."""
        if not holds(held.measured, self._guard, surely=True):
            return removed, held
        left, missed = _REFINEMENTS, list[str]()
        # The limits fail with ``low`` layers put back, and hold with ``high``.
        low, high = self._failed, len(removed)
        while left and high - low > 1 and self._share(removed[low + 1 : high]) >= _WORTH:
            middle = (low + high) // 2
            step = self._attempt(frozenset(removed[:middle]))
            left -= 1
            if holds(step.measured, self._guard, surely=True):
                high, held = middle, step
            else:
                low, missed = middle, removed[:middle]
        removed = removed[:high]
        for name in sorted(removed[:-1], key=self._shares.__getitem__, reverse=True):
            if not left or self._shares[name] < _WORTH:
                break
            fewer = [other for other in removed if other != name]
            step = self._attempt(frozenset(fewer))
            left -= 1
            if holds(step.measured, self._guard, surely=True):
                removed, held = fewer, step
            else:
                missed = fewer
        for names in ([missed] if missed else []) + [removed]:
            anew = self._attempt(frozenset(names), anew=True)
            gain = names is missed or anew.measured.sqnr_db > held.measured.sqnr_db
            if gain and holds(anew.measured, self._guard, surely=True):
                return names, anew
        return removed, held

    def refusal(self, precision: Precision) -> str:
        """The error message: why the limits cannot be kept."""
        guard, measured = self._guard, self._step.measured
        agreement = "" if measured.agreement is None else f" and {measured.agreement:.1%} agreement"
        limit = f"{guard.min_sqnr_db:g} dB"
        if guard.min_agreement is not None:
            limit += f" and {guard.min_agreement:.1%}"
        if measured.missed:
            limit += f" and {' and '.join(map(str, measured.missed))}"
        return (
            f"{_title(precision)} gives {measured.sqnr_db:.1f} dB{agreement} with "
            f"{self._step.share:.0%} of the multiply-accumulates in it, and not {limit} with "
            f"{guard.min_quantized_share:.0%} or more."
        )

    def _next(self, removed: Sequence[str]) -> list[str]:
        """The next layers to put back beside ``removed``; empty if no more are allowed."""
        measured, guard = self._step.measured, self._guard
        if _sqnr_db(measured) >= guard.min_sqnr_db and not measured.missed:
            costs = {name: cost.divergence or 0.0 for name, cost in self.costs.items()}
        else:
            costs = {name: cost.noise for name, cost in self.costs.items()}
        stay = {name: cost for name, cost in costs.items() if name not in removed}
        remaining = sum(stay.values())
        goal = remaining * _wanted(measured, guard)
        room = 1.0 - guard.min_quantized_share - self._share(removed)
        found: list[str] = []
        for name in sorted(stay, key=lambda one: stay[one] / self._shares[one], reverse=True):
            if found and remaining <= goal:
                break
            if self._shares[name] <= room + 1e-9:
                found.append(name)
                room -= self._shares[name]
                remaining -= stay[name]
        return found

    def _share(self, names: Sequence[str]) -> float:
        return sum(self._shares[name] for name in names)


def holds(measured: Measured, guard: GuardSpec, *, surely: bool = False) -> bool:
    """Whether a model keeps the limits; ``surely`` counts the likely figures too."""
    if not _sqnr_db(measured, surely) >= guard.min_sqnr_db or measured.missed:
        return False
    limit = guard.min_agreement
    if limit is None or measured.agreement is None:
        return True
    return (_sure_agreement(measured) if surely else measured.agreement) >= limit


def _sqnr_db(measured: Measured, surely: bool = True) -> float:
    """The measured SQNR (dB), or the lower of the measured and the likely one."""
    likely = measured.likely_sqnr_db
    return min(measured.sqnr_db, likely) if surely and likely is not None else measured.sqnr_db


def _sure_agreement(measured: Measured) -> float:
    """The lower of the measured and the likely agreement; 1 for a model without classes."""
    known = (measured.agreement, measured.likely_agreement)
    return min((one for one in known if one is not None), default=1.0)


def _wanted(measured: Measured, guard: GuardSpec) -> float:
    """The share of the present noise or divergence that may stay, 0 to 1."""
    if not math.isfinite(measured.sqnr_db):
        return 0.1
    if _sqnr_db(measured) < guard.min_sqnr_db:
        return 10 ** ((_sqnr_db(measured) - guard.min_sqnr_db - _MARGIN_DB) / 10)
    if measured.missed:
        return _METRIC_SHARE
    # The number of changed classes is proportional to the error; divergence, to its square.
    allowed, changed = 1.0 - (guard.min_agreement or 0.0), 1.0 - _sure_agreement(measured)
    return min(max((allowed / changed) ** 2, 0.1), 0.8) if changed > 0.0 else 0.8


def _title(precision: Precision) -> str:
    return precision.value.upper()


def _db(noise: float) -> str:
    return "nothing measurable" if noise <= 0 else f"{-10 * math.log10(noise):.1f} dB SQNR"
