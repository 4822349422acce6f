"""The result of lowering a model: one record for every precision."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from deployfold.config.precision import Precision
from deployfold.errors import first_few
from deployfold.reporting.layers import QuantizedLayer


@dataclass(frozen=True)
class KeptNode:
    """A node that stays in a wider precision.

    Attributes:
        name: the node's name, or the layer's module.
        reason: a clause such as ``its output reaches 1e+05, beyond float16's 65504``.
    """

    name: str
    op_type: str
    reason: str
    precision: Precision = Precision.FP32


_ENOUGH = 1e4
"""The report omits head-room from this factor upwards."""


@dataclass(frozen=True)
class HeadRoom:
    """How far the model's inputs can grow before a tensor leaves the range of float16.

    Attributes:
        tensor: the float16 tensor that overflows first.
        largest: the tensor's largest magnitude on the given inputs.
        factor: how many times as large the inputs may become.
    """

    tensor: str
    largest: float
    factor: float


@dataclass(frozen=True)
class OutputMeasure:
    """The error of one output, or of one part of an output, against fp32.

    Attributes:
        name: the output's name, followed by a range of indices for a part.
        shape: the shape on the first sample.
        sqnr_db: signal-to-quantisation-noise ratio in dB over all samples.
        max_abs_diff: largest absolute difference over all samples.
    """

    name: str
    shape: tuple[int, ...]
    sqnr_db: float
    max_abs_diff: float


@dataclass(frozen=True)
class LoweredModel:
    """An ONNX file in a lower precision, with the accuracy of the written file.

    Attributes:
        bytes: size of the file and of its external data.
        sqnr_db: signal-to-quantisation-noise ratio in dB of the worst floating-point output
            against the fp32 model's, with every low-precision tensor rounded (see
            :mod:`deployfold.lowering.emulate`); ``inf`` if nothing differs.
        max_abs_diff: largest absolute difference over all outputs.
        samples: number of samples behind the accuracy figures.
        measured_on: a description of these samples, as the end of a sentence.
        kept: nodes and layers that stay in a wider precision, in graph order.
        rest: the precision of everything that is not quantised; family ``qdq`` only.
        layers: every layer with a weight, in graph order; family ``qdq`` only.
        macs_share: share of the layers' multiply-accumulates that are quantised, 0 to 1.
        top1_agreement: share of samples whose top-1 class is the same as in fp32; ``None`` for a
            model that is not a classifier, and if not measured.
        accuracy, reference_accuracy: share of right classes, lowered and in fp32; ``None`` without
            labels.
        head_room: the head-room of a model with float16 tensors; otherwise ``None``.
        cached: whether the file comes from the cache of an earlier run.
        outputs: every output; an output that joins several quantities is listed part by part.
        scores: the numbers of the task metrics by name.
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
    layers: tuple[QuantizedLayer, ...] = ()
    macs_share: float | None = None
    top1_agreement: float | None = None
    accuracy: float | None = None
    reference_accuracy: float | None = None
    head_room: HeadRoom | None = None
    cached: bool = False
    outputs: tuple[OutputMeasure, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The result in a few words, for the progress line."""
        text = f"{self.precision.value}, {self.sqnr_db:.1f} dB on {self.measured_on}"
        if self.macs_share is not None:
            share = f"{self.macs_share:.0%} of the multiply-accumulates in {self.precision.value}"
            return f"{text}, {share}" + (", from the cache" if self.cached else "")
        kept = f"{len(self.kept)} node{'s' * (len(self.kept) > 1)}"
        return text + (f", {kept} kept in fp32" if self.kept else "")

    @property
    def sentences(self) -> tuple[str, ...]:
        """The notes and the kept nodes, one sentence or clause each, for the report."""
        kept = (f"{n.name} stays in {n.precision.value}: {n.reason}" for n in self.kept)
        return (*self.notes, *kept)

    @property
    def about(self) -> str:
        """The footnote of the table row: how the accuracy was measured."""
        rounded = "every low-precision tensor"
        if self.precision.record.family == "cast":
            rounded = f"every {self.precision.value} tensor"
        room = ""
        if self.head_room is not None and self.head_room.factor < _ENOUGH:
            factor = self.head_room.factor
            times = f"{factor:.3g}" if factor < 1000 else f"{factor:,.0f}"
            room = f"; inputs {times} times as large still fit float16"
        each = ""
        if len(self.outputs) > 1:
            each = "; " + first_few([f"{one.name} {one.sqnr_db:.1f} dB" for one in self.outputs])
        measured_on = self.measured_on
        if self.samples == 1:
            measured_on = re.sub(r"\b(input|sample)s\b", r"\1", measured_on, count=1)
        return (
            f"accuracy of the file as written against the fp32 ONNX, on {self.samples} "
            f"{measured_on}, with {rounded} rounded{room}{each}"
        )

    def to_facts(self) -> dict[str, Any]:
        """The record without the path, as values that JSON can store."""
        return {**_FACTS.dump_python(self, mode="json"), "path": ""}

    @classmethod
    def from_facts(cls, path: Path, facts: Mapping[str, Any]) -> LoweredModel:
        """Rebuild a record from the result of :meth:`to_facts`; ``path`` is a copy of its file."""
        return dataclasses.replace(_FACTS.validate_python(facts), path=path, cached=True)


_FACTS = TypeAdapter(LoweredModel)
"""Reads and writes the record as JSON values."""
