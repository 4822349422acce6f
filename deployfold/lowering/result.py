"""What lowering gives back: one record for every precision."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployfold.config.precision import Precision
from deployfold.errors import first_few


@dataclass(frozen=True)
class KeptNode:
    """A node that stays in a wider precision.

    Attributes:
        name: of the node, or of the layer's module.
        reason: a clause such as ``its output reaches 1e+05, beyond float16's 65504``.
        precision: the one that it stays in.
    """

    name: str
    op_type: str
    reason: str
    precision: Precision = Precision.FP32


@dataclass(frozen=True)
class LayerReport:
    """One layer with a weight, of a model with Q/DQ nodes.

    Attributes:
        name: of its module, or of the ONNX node where the weight does not tell.
        precision: the quantised one, or that of the rest.
        macs: multiply-accumulates of one inference.
        sqnr_db: of its output on the calibration samples against fp32, with everything before it
            quantised as well.
        input_range: the largest magnitude that its input is quantised to; ``None`` where it is not.
        estimator: how that range was found, or how many weights share a scale.
        reason: why it is not quantised.
    """

    name: str
    op_type: str
    precision: str
    macs: int
    sqnr_db: float
    input_range: float | None
    estimator: str
    reason: str = ""


_ENOUGH = 1e4
"""Head-room beyond this factor is not worth mentioning."""


@dataclass(frozen=True)
class HeadRoom:
    """How far the model's inputs can grow before a tensor leaves the range of float16.

    Attributes:
        tensor: the float16 tensor that leaves it first.
        largest: its largest magnitude on the inputs that were seen.
        factor: the inputs may be this many times as large.
    """

    tensor: str
    largest: float
    factor: float


@dataclass(frozen=True)
class OutputMeasure:
    """One output, or one part of an output with a scale of its own, against fp32.

    Attributes:
        name: of the output; with the range of its indices for a part.
        shape: on the first sample.
    """

    name: str
    shape: tuple[int, ...]
    sqnr_db: float
    max_abs_diff: float


@dataclass(frozen=True)
class LoweredModel:
    """An ONNX file in a lower precision, with the accuracy of the file as it is written.

    Attributes:
        bytes: size of the file and of its external data.
        sqnr_db: signal-to-quantisation-noise ratio in dB of the worst floating-point output
            against the fp32 model's, with every low-precision tensor rounded (see
            :mod:`deployfold.lowering.emulate`); ``inf`` where nothing differs.
        max_abs_diff: largest absolute difference of all outputs.
        samples: how many samples these were measured on.
        measured_on: what these samples are, as the end of a sentence.
        kept: nodes and layers that stay in a wider precision, in graph order.
        notes: sentences for the user.
        rest: the precision of what is not quantised; of the family ``qdq``.
        layers: every layer with a weight, the least exact first; of the family ``qdq``.
        macs_share: share of the layers' multiply-accumulates that are quantised, 0 to 1.
        top1_agreement: share of samples whose top-1 class stayed; ``None`` for a model that is not
            a classifier, and where it was not measured.
        accuracy, reference_accuracy: share of right classes, here and in fp32; ``None`` without
            labels.
        head_room: of a model with float16 tensors.
        cached: taken from the cache of an earlier run.
        outputs: every output, those that join several quantities part by part.
    """

    path: Path
    bytes: int
    precision: Precision
    sqnr_db: float
    max_abs_diff: float
    samples: int
    measured_on: str
    kept: tuple[KeptNode, ...] = ()
    notes: tuple[str, ...] = ()
    rest: Precision = Precision.FP32
    layers: tuple[LayerReport, ...] = ()
    macs_share: float | None = None
    top1_agreement: float | None = None
    accuracy: float | None = None
    reference_accuracy: float | None = None
    head_room: HeadRoom | None = None
    cached: bool = False
    outputs: tuple[OutputMeasure, ...] = ()

    @property
    def summary(self) -> str:
        """The result in a few words, for the progress line."""
        text = f"{self.precision.value}, {self.sqnr_db:.1f} dB on {self.measured_on}"
        if self.macs_share is not None:
            share = f"{self.macs_share:.0%} of the multiply-accumulates in {self.precision.value}"
            return f"{text}, {share}" + (", from the cache" if self.cached else "")
        return text + (f", {len(self.kept)} nodes kept in fp32" if self.kept else "")

    @property
    def sentences(self) -> tuple[str, ...]:
        """Everything to say beside the numbers, one sentence or clause each."""
        kept = (f"{n.name} stays in {n.precision.value}: {n.reason}" for n in self.kept)
        return (*self.notes, *kept)

    @property
    def about(self) -> str:
        """How the accuracy was measured, as the footnote of the row."""
        rounded = "every low-precision tensor"
        if self.precision.record.family == "cast":
            rounded = f"every {self.precision.value} tensor"
        room = ""
        if self.head_room is not None and self.head_room.factor < _ENOUGH:
            room = f"; inputs {self.head_room.factor:.3g} times as large still fit float16"
        each = ""
        if len(self.outputs) > 1:
            each = "; " + first_few([f"{one.name} {one.sqnr_db:.1f} dB" for one in self.outputs])
        return (
            f"accuracy of the file as written against the fp32 ONNX, on {self.samples} "
            f"{self.measured_on}, with {rounded} rounded{room}{each}"
        )

    def to_facts(self) -> dict[str, Any]:
        """Everything but the path, as JSON can hold it."""
        return dataclasses.asdict(self) | {"path": ""}

    @classmethod
    def from_facts(cls, path: Path, facts: Mapping[str, Any]) -> LoweredModel:
        """The record that :meth:`to_facts` was made of, for a copy of its file at ``path``."""
        plain = dict(facts)
        head_room = plain["head_room"]
        plain |= {
            "path": path,
            "outputs": tuple(
                OutputMeasure(**{**one, "shape": tuple(one["shape"])})
                for one in plain.get("outputs", ())
            ),
            "precision": Precision(plain["precision"]),
            "rest": Precision(plain["rest"]),
            "layers": tuple(LayerReport(**layer) for layer in plain["layers"]),
            "kept": tuple(
                KeptNode(**(node | {"precision": Precision(node["precision"])}))
                for node in plain["kept"]
            ),
            "notes": tuple(plain["notes"]),
            "head_room": None if head_room is None else HeadRoom(**head_room),
            "cached": True,
        }
        return cls(**plain)
