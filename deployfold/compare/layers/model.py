"""The comparison of two forms of a model, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

from deployfold.reporting import text
from deployfold.reporting.fields import Frozen, Number

DEFAULT_SQNR_DB = {"fp32": 60.0, "fp16": 20.0, "bf16": 10.0}
"""The limit for the coarser of two precisions. float32 kernels that add up in another order leave
100 dB and more, and even in deep networks more than 80. The 10 bits of float16 leave 60 to 70 dB a
layer and bfloat16's 7 bits 20 dB less, which add up with depth: an untrained ResNet-50
keeps less than 30 dB in fp16 from its 77th layer on."""
QUANTISED_SQNR_DB = 10.0
"""The limit for int8, fp8 and int4: the error's RMS is a third of the layer's output."""


@dataclass(frozen=True)
class Limits:
    """How far a layer may depart: SQNR in dB from below, max |Δ| from above."""

    sqnr_db: float
    max_diff: float | None = None

    def missed(self, sqnr_db: float, max_diff: float) -> str | None:
        """Which limit is missed and by how much, in words."""
        if sqnr_db < self.sqnr_db:
            return f"SQNR {text.decibels(sqnr_db)} is below {self.sqnr_db:g} dB"
        if self.max_diff is not None and max_diff > self.max_diff:
            return f"max |Δ| {text.difference(max_diff)} is above {self.max_diff:g}"
        return None


def limit_for(*precisions: str) -> float:
    """The SQNR in dB that the coarsest of some precisions can keep in every layer."""
    return min(DEFAULT_SQNR_DB.get(one, QUANTISED_SQNR_DB) for one in precisions)


class LayerDifference(Frozen):
    """The output of one layer in both forms.

    Attributes:
        kind: the class of the module, or the operator.
        folded: the BatchNorm that one form has behind the layer, and the other folded into it.
        departs: which limit it misses; ``None`` where it keeps them.
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
        old, new: the files.
        input_data: what was run.
        skipped: layers that differ by design, since a BatchNorm was folded around them.
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
        """Every layer keeps the limits."""
        return not self.departing

    def to_json(self) -> str:
        """The JSON text, indented, with a final newline."""
        return self.model_dump_json(indent=2) + "\n"
