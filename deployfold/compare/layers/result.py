"""The records of a layer-by-layer comparison of two forms of a model."""

from __future__ import annotations

from dataclasses import dataclass

from deployfold.config.precision import Precision
from deployfold.reporting import text
from deployfold.reporting.fields import Frozen, Number


@dataclass(frozen=True)
class Limits:
    """The limits of every layer: the least SQNR in dB, and the greatest max |Δ|."""

    sqnr_db: float
    max_diff: float | None = None

    def missed(self, sqnr_db: float, max_diff: float) -> str | None:
        """The missed limit in words; ``None`` if both are kept."""
        if sqnr_db < self.sqnr_db:
            return f"SQNR {text.decibels(sqnr_db)} is below {self.sqnr_db:g} dB"
        if self.max_diff is not None and max_diff > self.max_diff:
            return f"max |Δ| {text.difference(max_diff)} is above {self.max_diff:g}"
        return None


def limit_for(*precisions: str) -> float:
    """The least SQNR in dB of a layer for the coarsest of the given precisions."""
    known = {one.value: one.record.layer_sqnr_db for one in Precision}
    coarsest = min(known.values())  # for a precision of another deployfold version
    return min(known.get(one, coarsest) for one in precisions)


class LayerDifference(Frozen):
    """The output of one layer in both forms.

    Attributes:
        kind: the class of the module, or the operator.
        max_abs_diff, sqnr_db, cosine: the difference of the two outputs.
        folded: the BatchNorm that one form has after the layer and the other has folded into it.
        departs: the missed limit in words; ``None`` without one.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    max_abs_diff: Number | None = None
    sqnr_db: Number | None = None
    cosine: Number | None = None
    folded: str | None = None
    departs: str | None = None


class LayerComparison(Frozen):
    """Every layer that two forms of a model have in common, in the order in which they run.

    Attributes:
        skipped: layers that differ by design, because a BatchNorm was folded around them.
        alone: layers with weights that only the old form has.
    """

    old: str
    new: str
    old_precision: str
    new_precision: str
    input_data: str
    min_sqnr_db: Number
    max_diff: Number | None = None
    layers: tuple[LayerDifference, ...] = ()
    skipped: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()

    @property
    def departing(self) -> tuple[LayerDifference, ...]:
        """The layers that miss a limit."""
        return tuple(layer for layer in self.layers if layer.departs is not None)

    @property
    def passed(self) -> bool:
        """Whether every layer keeps the limits."""
        return not self.departing
