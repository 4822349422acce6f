"""Quantises the layers of a graph one after another, from the inputs to the outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from deployfold.exporting.session import Array, run_session
from deployfold.lowering.activations import scratch_session
from deployfold.lowering.progress import Progress, silent
from deployfold.util.numerics import sqnr_db

from .columns import columns_of, rows_of
from .fit import STRENGTHS, Strength, fit
from .formats import Format
from .layers import Layer, QuantisedLayer, Skip
from .partial_runs import Batch, PartialRuns
from .problem import UNBOUNDED, Bounds, Problem
from .ranges import candidates
from .rounding import half, plain

REPORTED = 8
"""Most calibration samples for the SQNR of a layer."""


@dataclass(frozen=True, eq=False)
class LayerResult:
    """A layer after the pass.

    Attributes:
        quantised: its quantised version; ``None`` if the layer was excluded.
        estimator: the method that found the range, or the number of weights that share a scale;
            empty for an excluded layer.
        input_range: the largest magnitude that the quantised input can represent; NaN if the input
            is not quantised.
        sqnr_db: SQNR (dB) of the layer's output on some calibration samples, with all earlier
            layers quantised as well.
        macs: multiply-accumulates of one sample.
    """

    layer: Layer
    quantised: QuantisedLayer | None
    estimator: str
    input_range: float
    sqnr_db: float
    macs: int


def quantise_layers(
    model: onnx.ModelProto,
    layers: Sequence[Layer],
    feeds: Sequence[Mapping[str, Array]],
    form: Format,
    *,
    excluded: Collection[str] = (),
    strengths: Sequence[Strength] = STRENGTHS,
    folds: Sequence[int] = (),
    progress: Progress = silent,
) -> list[LayerResult]:
    """Quantise every layer except ``excluded``, each on the real outputs of the quantised ones.

    Args:
        layers: layers of the model, in an order in which they can be computed.
        form: the format for weights and, unless it is for weights alone, inputs.
        strengths: the strengths that a fit may choose from. An empty sequence rounds weights to
            nearest and leaves biases unchanged.
        folds: the index where each fold of the samples begins, without the first.

    Raises:
        ExportError: ONNX Runtime cannot run a part of the model.
    """
    sources = [layer.source for layer in layers]
    skips = [layer.skip.source for layer in layers if layer.skip is not None]
    exact, actual = PartialRuns(model, feeds, sources), PartialRuns(model, feeds, sources + skips)
    runner = _LayerRunner(model)
    ranges: dict[str, tuple[str, float]] = {}
    results = []
    for number, layer in enumerate(layers, start=1):
        progress(f"layer {number} of {len(layers)}", (number - 1) / len(layers))
        before, after = exact.get(layer.source), actual.get(layer.source)
        weight, bias = runner.weights(layer)
        if layer.name in excluded:
            given = runner.run(layer, after, weight, bias)
            quantised, estimator, top = None, "", float("nan")
        else:
            quantised, estimator, top = _quantise(
                layer, before, after, runner, ranges, form, strengths, folds
            )
            read = (_fake_quantise(value, quantised.scale, form) for value in after)
            given = runner.run(layer, read, _restored(quantised), quantised.bias)
            if layer.skip is not None:
                skip = actual.get(layer.skip.source)
                scale = _skip_scale(layer.skip, skip, given, ranges, form)
                quantised = dataclasses.replace(quantised, skip_scale=scale)
                rounded = (_fake_quantise(value, scale, form) for value in skip)
                total = [a + b for a, b in zip(given, rounded, strict=True)]
                actual.put(layer.skip.total, total)
        some = slice(None, None, -(-len(before) // REPORTED))
        wanted = runner.run(layer, before[some], weight, bias)
        sqnr = sqnr_db(wanted, given[some])
        per_output = int(np.prod(weight.shape)) // weight.shape[layer.axis]
        macs = wanted[0].size * per_output
        if layer.op_type == "ConvTranspose":
            macs = before[0].size * int(np.prod(weight.shape[1:]))
        results.append(LayerResult(layer, quantised, estimator, top, sqnr, macs))
        actual.put(layer.output, given)
        exact.done(layer.source)
        actual.done(layer.source)
        if layer.skip is not None:
            actual.done(layer.skip.source)
    return results


def _quantise(
    layer: Layer,
    before: Batch,
    after: Batch,
    runner: _LayerRunner,
    ranges: dict[str, tuple[str, float]],
    form: Format,
    strengths: Sequence[Strength],
    folds: Sequence[int],
) -> tuple[QuantisedLayer, str, float]:
    weight, bias = runner.weights(layer)
    problem = _problem(layer, before, after, runner, strengths, folds) if strengths else None
    if form.weight_only:
        estimator = f"blocks of {layer.block}" if layer.block else "one scale a channel"
        top, scale = float("nan"), None
    else:
        if layer.source not in ranges:  # layers that read one tensor share its Q/DQ pair
            proposed = candidates(after, form)
            ranges[layer.source] = _least_error(proposed)
            if problem is not None:
                scales = {name: _scale(top, form) for name, top in proposed.items()}
                errors = problem.errors(scales, form)
                best = min(errors, key=lambda name: errors[name])
                ranges[layer.source] = best, proposed[best]
        estimator, top = ranges[layer.source]
        scale = _scale(top, form)
    if problem is None:
        codes, steps = plain(layer, weight, form)
        return QuantisedLayer(layer, codes, steps, bias, scale), estimator, top
    if scale is not None:
        problem = problem.quantised(scale, form)
    found = fit(layer, weight, problem, strengths, form)
    quantised = QuantisedLayer(layer, found.weight, found.weight_scale, found.bias, scale)
    return quantised, estimator, top


def _problem(
    layer: Layer,
    before: Batch,
    after: Batch,
    runner: _LayerRunner,
    strengths: Sequence[Strength],
    folds: Sequence[int],
) -> Problem | None:
    """The layer as a matrix product on sampled columns; ``None`` for a ConvTranspose."""
    weight, bias = runner.weights(layer)
    columns = columns_of(
        layer, (before, after), weight, runner.attributes(layer), folds, fitted=len(strengths) > 1
    )
    if columns is None:
        return None
    rows = rows_of(layer, weight)
    added = None
    if bias is not None:
        added = torch.from_numpy(np.array(bias, np.float32)).reshape(*rows.shape[:2], 1)
    return Problem(rows, added, runner.bounds(layer), *columns)


def _skip_scale(
    skip: Skip, values: Batch, added_to: Batch, ranges: dict[str, tuple[str, float]], form: Format
) -> float | None:
    """The scale of a skip, shared with all layers that read the tensor; ``None`` if the sum
    broadcasts the skip."""
    if values[0].shape != added_to[0].shape:
        return None
    if skip.source not in ranges:
        ranges[skip.source] = _least_error(candidates(values, form))
    return _scale(ranges[skip.source][1], form)


def _least_error(proposed: Mapping[str, float]) -> tuple[str, float]:
    name = "mse" if "mse" in proposed else "max"
    return name, proposed[name]


def _scale(top: float, form: Format) -> float:
    return float(np.float32(half(np.array([top / form.largest]))[0]))


def _fake_quantise(value: Array, scale: float | None, form: Format) -> Array:
    if scale is None:
        return value
    given = torch.from_numpy(np.ascontiguousarray(value, np.float32))
    return np.asarray(form.fake_quantise(given, scale).numpy())


def _restored(item: QuantisedLayer) -> Array:
    weight, layer = item.weight.astype(np.float32), item.layer
    if layer.block:
        return np.asarray(weight * item.weight_scale.repeat(layer.block, 1 - layer.axis))
    shape = [1] * weight.ndim
    shape[layer.axis] = -1
    return np.asarray(weight * item.weight_scale.reshape(shape), np.float32)


class _LayerRunner:
    """Runs single layers of a model with replaced weights."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._nodes = {node.name: node for node in model.graph.node}
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in dict.fromkeys(node.input):
                self._readers.setdefault(name, []).append(node)

    def weights(self, layer: Layer) -> tuple[Array, Array | None]:
        """The layer's fp32 weight and bias; the bias is ``None`` for a layer without one."""
        bias = None if layer.bias is None else numpy_helper.to_array(self._tensors[layer.bias])
        return numpy_helper.to_array(self._tensors[layer.weight]), bias

    def bounds(self, layer: Layer) -> Bounds:
        """The bounds of a Relu or Clip behind the layer.

        The bounds are infinite unless the Relu or Clip is the only reader of the layer's output.
        """
        readers = self._readers.get(layer.output, ())
        if len(readers) != 1:
            return UNBOUNDED
        (node,) = readers
        if node.op_type == "Relu":
            return 0.0, float("inf")
        limits = [self._tensors.get(name) for name in node.input[1:3]]
        if node.op_type != "Clip" or len(limits) != 2 or None in limits:
            return UNBOUNDED
        low, high = (numpy_helper.to_array(limit).item() for limit in limits if limit is not None)
        return low, high

    def attributes(self, layer: Layer) -> dict[str, object]:
        """The node's attributes as Python values."""
        node = self._nodes[layer.name]
        return {item.name: helper.get_attribute_value(item) for item in node.attribute}

    def run(
        self, layer: Layer, values: Iterable[Array], weight: Array, bias: Array | None
    ) -> Batch:
        """The layer's output on every sample."""
        node = self._nodes[layer.name]
        arrays = {layer.weight: weight} | ({} if layer.bias is None else {layer.bias: bias})
        graph = helper.make_graph(
            [node],
            "layer",
            [helper.make_tensor_value_info(layer.source, onnx.TensorProto.FLOAT, None)],
            [onnx.ValueInfoProto(name=layer.output)],
            initializer=[
                numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()
            ],
        )
        model = helper.make_model(
            graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version
        )
        with scratch_session(model, weight.nbytes) as session:
            return [run_session(session, {layer.source: value})[0] for value in values]
