"""Measures what each quantised layer costs alone: the accuracy with all other layers in fp32."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import onnx

from deployfold.util.arrays import Array

from .formats import Format
from .layer_runs import LayerRunner
from .partial_runs import Batch, PartialRuns
from .quantise import LayerResult, summed
from .rounding import plain


def outputs_alone(
    model: onnx.ModelProto,
    feeds: Sequence[Mapping[str, Array]],
    results: Sequence[LayerResult],
    form: Format,
) -> Iterator[tuple[str, list[Batch]]]:
    """Yield each quantised layer's name and the model's outputs with this layer alone quantised.

    The weight is rounded to nearest, and the bias is that of fp32: a fit makes up for the errors of
    the layers before. Only the nodes behind the layer run.

    Raises:
        ExportError: ONNX Runtime cannot run a part of the model.
    """
    quantised = [one.quantised for one in results if one.quantised is not None]
    sources = [one.layer.source for one in quantised]
    skips = [one.layer.skip.source for one in quantised if one.layer.skip is not None]
    outputs = [output.name for output in model.graph.output]
    exact = PartialRuns(model, feeds, [*sources, *skips, *outputs])
    runner = LayerRunner(model)
    for one in quantised:
        layer = one.layer
        weight, bias = runner.weights(layer)
        codes, steps = plain(layer, weight, form)
        alone = dataclasses.replace(one, weight=codes, weight_scale=steps, bias=bias)
        name, values = layer.output, runner.rounded(layer, exact.get(layer.source), alone, form)
        if layer.skip is not None:
            skip = exact.get(layer.skip.source)
            name, values = layer.skip.total, summed(values, skip, one.skip_scale, form)
            exact.done(layer.skip.source)
        yield layer.name, exact.replaced(name, values, outputs)
        exact.done(layer.source)
