"""Quantises the layers of a graph one after another, from the inputs to the outputs."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import torch

from deployfold.lowering.progress import Progress, silent
from deployfold.util.arrays import Array
from deployfold.util.numerics import sqnr_db

from .columns import columns_of, rows_of
from .fit import STRENGTHS, Choice, Strength, fit
from .formats import Format
from .layer_runs import LayerRunner
from .layers import Layer, QuantisedLayer, Skip
from .partial_runs import Batch, PartialRuns
from .problem import Problem
from .ranges import candidates, magnitudes
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
            layers quantised as well; NaN where nothing reports it.
        macs: multiply-accumulates of one sample.
        choice: how closely the weight follows the samples; ``None`` without a fit.
    """

    layer: Layer
    quantised: QuantisedLayer | None
    estimator: str
    input_range: float
    sqnr_db: float
    macs: int
    choice: Choice | None = None


def quantise_layers(
    model: onnx.ModelProto,
    layers: Sequence[Layer],
    feeds: Sequence[Mapping[str, Array]],
    form: Format,
    *,
    excluded: Collection[str] = (),
    strengths: Sequence[Strength] = STRENGTHS,
    folds: Sequence[int] = (),
    earlier: Sequence[LayerResult] = (),
    reported: int = REPORTED,
    cut: bool = True,
    progress: Progress = silent,
) -> list[LayerResult]:
    """Quantise every layer except ``excluded``, each on the real outputs of the quantised ones.

    Args:
        layers: layers of the model, in an order in which they can be computed.
        form: the format for weights and, unless it is for weights alone, inputs.
        strengths: the strengths that a fit may choose from. An empty sequence rounds weights to
            nearest and leaves biases unchanged.
        folds: the index where each fold of the samples begins, without the first.
        earlier: the same layers with fewer of them excluded. Layers in front of the first that is
            newly excluded stay as they are. The others are fitted anew, as closely as then.
        reported: most samples for the SQNR of each layer; 0 leaves it NaN.
        cut: whether the range of an activation may cut values of the samples off.

    Raises:
        ExportError: ONNX Runtime cannot run a part of the model.
    """
    sources = [layer.source for layer in layers]
    skips = [layer.skip.source for layer in layers if layer.skip is not None]
    exact, actual = PartialRuns(model, feeds, sources), PartialRuns(model, feeds, sources + skips)
    known = {one.layer.name: one for one in earlier if one.quantised is not None}
    readers: dict[str, list[Layer]] = {layer.source: [] for layer in layers}
    for layer in layers:
        if layer.name not in excluded:
            readers[layer.source].append(layer)
    quantiser = _Quantiser(LayerRunner(model), form, strengths, folds, cut, readers)
    runner, unchanged = quantiser.runner, True
    results = []
    for number, layer in enumerate(layers, start=1):
        progress(f"layer {number} of {len(layers)}", (number - 1) / len(layers))
        before, after = exact.get(layer.source), actual.get(layer.source)
        result = known.get(layer.name)
        if layer.name in excluded:
            unchanged = unchanged and result is None
            given = runner.exact(layer, after)
            result = LayerResult(layer, None, "", math.nan, math.nan, 0)
        else:
            if result is not None and unchanged:
                quantiser.ranges[layer.source] = result.estimator, result.input_range
            else:
                choice = None if result is None else result.choice
                result = quantiser.quantise(layer, before, after, choice)
            assert result.quantised is not None
            given = runner.rounded(layer, after, result.quantised, form)
            if layer.skip is not None:
                skip = actual.get(layer.skip.source)
                scale = quantiser.skip_scale(layer.skip, skip, given)
                quantised = dataclasses.replace(result.quantised, skip_scale=scale)
                result = dataclasses.replace(result, quantised=quantised)
                actual.put(layer.skip.total, summed(given, skip, scale, form))
        sqnr = math.nan
        if reported:
            some = slice(None, None, -(-len(before) // reported))
            sqnr = sqnr_db(runner.exact(layer, before[some]), given[some])
        weight = runner.weights(layer)[0]
        macs = given[0].size * int(np.prod(weight.shape)) // weight.shape[layer.axis]
        if layer.op_type == "ConvTranspose":
            macs = before[0].size * int(np.prod(weight.shape[1:]))
        results.append(dataclasses.replace(result, sqnr_db=sqnr, macs=macs))
        actual.put(layer.output, given)
        exact.done(layer.source)
        actual.done(layer.source)
        if layer.skip is not None:
            actual.done(layer.skip.source)
    return results


@dataclass(frozen=True)
class _Quantiser:
    """Quantises one layer after another.

    Attributes:
        readers: the layers that read each tensor, which share its Q/DQ pair.
        ranges: for each tensor, how its range was found, and the range.
    """

    runner: LayerRunner
    form: Format
    strengths: Sequence[Strength]
    folds: Sequence[int]
    cut: bool
    readers: Mapping[str, Sequence[Layer]]
    ranges: dict[str, tuple[str, float]] = field(default_factory=dict)

    def quantise(
        self, layer: Layer, before: Batch, after: Batch, choice: Choice | None
    ) -> LayerResult:
        """Quantise a layer that reads ``before`` in fp32, and ``after`` behind quantised layers.

        Args:
            choice: how closely to follow the samples; ``None`` lets cross-validation choose.
        """
        form = self.form
        weight, bias = self.runner.weights(layer)
        problem = self._problem(layer, before, after) if self.strengths else None
        if form.weight_only:
            estimator = f"blocks of {layer.block}" if layer.block else "one scale a channel"
            top, scale = math.nan, None
        else:
            if layer.source not in self.ranges:
                others = (one for one in self.readers[layer.source] if problem and one is not layer)
                readers = (problem, *(self._problem(one, before, after) for one in others))
                self.ranges[layer.source] = self._range(
                    layer.source, after, [one for one in readers if one]
                )
            estimator, top = self.ranges[layer.source]
            scale = _scale(top, form)
        if problem is None:
            codes, steps = plain(layer, weight, form)
            quantised = QuantisedLayer(layer, codes, steps, bias, scale)
            return LayerResult(layer, quantised, estimator, top, math.nan, 0)
        if scale is not None:
            problem = problem.quantised(scale, form)
        found = fit(layer, weight, problem, self.strengths, form, choice)
        quantised = QuantisedLayer(layer, found.weight, found.weight_scale, found.bias, scale)
        return LayerResult(layer, quantised, estimator, top, math.nan, 0, found.choice)

    def skip_scale(self, skip: Skip, values: Batch, added_to: Batch) -> float | None:
        """The scale of a skip, shared with all layers that read the tensor; ``None`` if the sum
        broadcasts the skip."""
        if values[0].shape != added_to[0].shape:
            return None
        if skip.source not in self.ranges:
            self.ranges[skip.source] = self._range(skip.source, values, ())
        return _scale(self.ranges[skip.source][1], self.form)

    def _range(self, name: str, values: Batch, readers: Sequence[Problem]) -> tuple[str, float]:
        """How the best range of a tensor is found, and the range.

        1. Without layers that read the tensor, the values decide.
        2. A tensor of one column a sample, such as a classifier's input behind a global pool, takes
           the widest range. So few columns hardly tell the ranges apart, and nothing behind the
           layer averages out the error of values beyond the range.
        3. Otherwise, the ranges that the other folds propose are judged on each fold, by the layers
           that read the tensor. A single fold judges its own, without head-room.
        """
        folds = magnitudes(values, self.folds)
        propose = functools.partial(
            candidates, form=self.form, cut=self.cut, wider=len(folds) > 1,
            limit=self.runner.limit(name),
        )  # fmt: skip
        proposed = propose(folds)
        if not readers or len(proposed) == 1:
            estimator = "mse" if self.cut else "max"
            return estimator, proposed[estimator]
        if readers[0].exact.values.shape[2] == len(values):
            estimator = max(proposed, key=lambda one: proposed[one])
            return estimator, proposed[estimator]
        errors = dict.fromkeys(proposed, 0.0)
        for index in range(len(folds)):
            others = [*folds[:index], *folds[index + 1 :]] or folds
            tops = propose(others)
            scales = {estimator: _scale(top, self.form) for estimator, top in tops.items()}
            for problem in readers:
                found = problem.errors(scales, self.form, problem.parts[index])
                errors = {one: error + found[one] for one, error in errors.items()}
        best = min(errors, key=lambda estimator: errors[estimator])
        return best, proposed[best]

    def _problem(self, layer: Layer, before: Batch, after: Batch) -> Problem | None:
        """The layer as a matrix product on sampled columns; ``None`` with automatic padding."""
        runner = self.runner
        weight, bias = runner.weights(layer)
        columns = columns_of(
            layer, (before, after), weight, runner.attributes(layer), self.folds,
            fitted=len(self.strengths) > 1,
        )  # fmt: skip
        if columns is None:
            return None
        rows = rows_of(layer, weight)
        added = None
        if bias is not None:
            added = torch.from_numpy(np.array(bias, np.float32)).reshape(*rows.shape[:2], 1)
        exact, read = columns
        tokens = layer.op_type == "MatMul" and before[0].ndim > 2
        curve = runner.curve(layer)
        return Problem(rows, added, runner.bounds(layer), exact, read, curve, tokens)


def summed(values: Batch, skip: Batch, scale: float | None, form: Format) -> Batch:
    """The sum of a layer's outputs and the skip, which is rounded if it has a scale."""
    return [
        one + (other if scale is None else _fake_quantise(other, scale, form))
        for one, other in zip(values, skip, strict=True)
    ]


def _scale(top: float, form: Format) -> float:
    return float(np.float32(half(np.array([top / form.largest]))[0]))


def _fake_quantise(value: Array, scale: float, form: Format) -> Array:
    given = torch.from_numpy(np.ascontiguousarray(value, np.float32))
    return np.asarray(form.fake_quantise(given, scale).numpy())
