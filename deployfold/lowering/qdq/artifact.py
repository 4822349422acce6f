"""What quantising leaves: the file, and what is to be said of each layer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deployfold.config.precision import Precision
from deployfold.lowering.lowered import KeptNode

from .graph import Layer
from .quantise import LayerResult


@dataclass(frozen=True)
class LayerReport:
    """One layer with a weight.

    Attributes:
        name: of its module, or of the ONNX node where the weight does not tell.
        precision: the quantised one, or ``fp16`` or ``fp32``.
        macs: multiply-accumulates of one inference.
        sqnr_db: of its output on the calibration samples against fp32, with everything before it
            quantised as well.
        input_range: the largest magnitude that its input is quantised to; ``None`` where it is not.
        estimator: how that range was found, or what share a scale.
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


@dataclass(frozen=True)
class QdqArtifact:
    """An ONNX file with Q/DQ nodes.

    Attributes:
        bytes: size of the file and of its external data.
        fallback: the precision of what is not quantised.
        layers: the least exact first.
        sqnr_db: of the worst output on the held-back samples, against fp32, in dB.
        top1_agreement: share of held-back samples whose top-1 class stayed; ``None`` for a model
            that is no classifier.
        accuracy, reference_accuracy: share of right classes, here and in fp32; ``None`` without
            labels.
        max_abs_diff: of all outputs on the held-back samples.
        macs_share: share of the layers' multiply-accumulates that are quantised, 0 to 1.
        kept: the layers that the guard put back, and nodes that fp16 cannot hold.
        notes: sentences for the user.
    """

    path: Path
    bytes: int
    precision: Precision
    fallback: Precision
    layers: tuple[LayerReport, ...]
    sqnr_db: float
    top1_agreement: float | None
    accuracy: float | None
    reference_accuracy: float | None
    max_abs_diff: float
    macs_share: float
    kept: tuple[KeptNode, ...] = ()
    notes: tuple[str, ...] = ()


def titles(layers: Sequence[Layer]) -> dict[str, str]:
    """By the name of the node, what a user knows a layer by: the module that the weight is of."""
    modules = {layer.name: layer.weight.removesuffix(".weight") for layer in layers}
    shared = Counter(modules.values())
    return {
        layer.name: module
        if layer.weight.endswith(".weight") and shared[module] == 1
        else layer.name
        for layer, module in zip(layers, modules.values(), strict=True)
    }


def report_layers(
    results: Sequence[LayerResult],
    reasons: Mapping[str, str],
    precision: Precision,
    fallback: Precision,
) -> tuple[LayerReport, ...]:
    """The layers, the least exact first; ``reasons`` says why one is not quantised, by name."""
    names = titles([result.layer for result in results])
    reports = [
        LayerReport(
            name=names[result.layer.name],
            op_type=result.layer.op_type,
            precision=(fallback if result.quantised is None else precision).value,
            macs=result.macs,
            sqnr_db=result.sqnr_db,
            input_range=result.input_range if math.isfinite(result.input_range) else None,
            estimator=result.estimator,
            reason=reasons.get(result.layer.name, ""),
        )
        for result in results
    ]
    return tuple(sorted(reports, key=lambda report: report.sqnr_db))
