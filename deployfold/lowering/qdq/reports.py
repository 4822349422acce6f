"""Makes the report on each layer of a quantised model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from deployfold.config.precision import Precision
from deployfold.lowering.result import LayerReport

from .layers import Layer
from .quantise import LayerResult


def titles(layers: Sequence[Layer]) -> dict[str, str]:
    """The title of each layer for the user, by node name: the module of the weight.

    A layer keeps its node name as the title if its weight is not called ``<module>.weight``, or if
    several layers share the module.
    """
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
    reasons: Mapping[str, tuple[Precision, str]],
    precision: Precision,
) -> tuple[LayerReport, ...]:
    """Make one report for each layer, in graph order.

    Args:
        results: the layers after quantisation.
        reasons: for each layer that is not quantised, by node name, its precision and the reason.
        precision: the precision of the quantised layers.
    """
    names = titles([result.layer for result in results])
    reports = []
    for result in results:
        instead, reason = reasons.get(result.layer.name, (precision, ""))
        reports.append(
            LayerReport(
                name=names[result.layer.name],
                op_type=result.layer.op_type,
                precision=instead.value,
                macs=result.macs,
                sqnr_db=result.sqnr_db,
                input_range=result.input_range if math.isfinite(result.input_range) else None,
                estimator=result.estimator,
                reason=reason,
            )
        )
    return tuple(reports)
