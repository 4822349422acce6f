"""Runs single layers of a model, with replaced weights and a rounded input."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from deployfold.exporting.session import run_session
from deployfold.lowering.activations import scratch_session
from deployfold.util.arrays import Array

from .formats import Format
from .layers import Layer, QuantisedLayer
from .partial_runs import Batch
from .problem import UNBOUNDED, Bounds, Curve

_CURVES: dict[str, Curve] = {"Sigmoid": torch.sigmoid, "Tanh": torch.tanh}

_WITHIN_ONE = frozenset({"HardSigmoid", "Sigmoid", "Softmax", "Tanh"})

_NOT_RAISING = frozenset(
    "AveragePool Concat Flatten GlobalAveragePool GlobalMaxPool Identity MaxPool Relu Reshape "
    "Squeeze Transpose Unsqueeze".split()
)
"""Operators without an output of a larger magnitude than that of their largest input."""


class LayerRunner:
    """Runs single layers of one model."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._nodes = {node.name: node for node in model.graph.node}
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        self._writers = {name: node for node in model.graph.node for name in node.output}
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
        node = self._reader(layer)
        if node is None:
            return UNBOUNDED
        return (0.0, float("inf")) if node.op_type == "Relu" else self._clip(node)

    def limit(self, name: str) -> float:
        """The largest magnitude that a tensor can have, by the Clip or Sigmoid that makes it."""
        node = self._writers.get(name)
        if node is None:
            return float("inf")
        if node.op_type in _WITHIN_ONE:
            return 1.0
        if node.op_type in _NOT_RAISING:
            values = node.input if node.op_type == "Concat" else node.input[:1]
            return max(map(self.limit, values))
        if node.op_type == "Pad":
            return max(self.limit(node.input[0]), self._filler(node))
        low, high = self._clip(node)
        return max(-low, high)

    def _filler(self, node: onnx.NodeProto) -> float:
        """The magnitude of what a Pad fills with; infinite for a computed value."""
        given = [self._tensors.get(name) for name in node.input[2:3] if name]
        if None in given:
            return float("inf")
        return max((abs(numpy_helper.to_array(one).item()) for one in given if one), default=0.0)

    def _clip(self, node: onnx.NodeProto) -> Bounds:
        """The bounds of a Clip; infinite for any other operator and for computed bounds."""
        limits = [self._tensors.get(name) for name in node.input[1:3]]
        if node.op_type != "Clip" or len(limits) != 2 or None in limits:
            return UNBOUNDED
        low, high = (numpy_helper.to_array(limit).item() for limit in limits if limit is not None)
        return low, high

    def curve(self, layer: Layer) -> Curve | None:
        """A Sigmoid or Tanh behind the layer that is the only reader of its output."""
        node = self._reader(layer)
        return None if node is None else _CURVES.get(node.op_type)

    def _reader(self, layer: Layer) -> onnx.NodeProto | None:
        """The only node that reads the layer's output."""
        readers = self._readers.get(layer.output, ())
        return readers[0] if len(readers) == 1 else None

    def attributes(self, layer: Layer) -> dict[str, object]:
        """The node's attributes as Python values."""
        node = self._nodes[layer.name]
        return {item.name: helper.get_attribute_value(item) for item in node.attribute}

    def exact(self, layer: Layer, values: Iterable[Array]) -> Batch:
        """The fp32 layer's output on every sample."""
        return self._run(layer, values, *self.weights(layer), None, None)

    def rounded(
        self, layer: Layer, values: Iterable[Array], quantised: QuantisedLayer, form: Format
    ) -> Batch:
        """The quantised layer's output on every sample; its input is rounded here."""
        weight, bias = _restored(quantised), quantised.bias
        return self._run(layer, values, weight, bias, quantised.scale, form)

    def _run(
        self,
        layer: Layer,
        values: Iterable[Array],
        weight: Array,
        bias: Array | None,
        scale: float | None,
        form: Format | None,
    ) -> Batch:
        node = onnx.NodeProto()
        node.CopyFrom(self._nodes[layer.name])
        arrays = {layer.weight: weight} | ({} if layer.bias is None else {layer.bias: bias})
        if scale is not None:
            arrays["scale"] = np.float32(scale)
        tensors = [numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()]
        pair = []
        if scale is not None and form is not None:
            tensors.append(helper.make_tensor("zero", form.dtype.value, (), [0]))
            node.input[0] = "read"
            pair = [
                helper.make_node("QuantizeLinear", [layer.source, "scale", "zero"], ["codes"]),
                helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["read"]),
            ]
        graph = helper.make_graph(
            [*pair, node],
            "layer",
            [helper.make_tensor_value_info(layer.source, onnx.TensorProto.FLOAT, None)],
            [onnx.ValueInfoProto(name=layer.output)],
            initializer=tensors,
        )
        model = helper.make_model(
            graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version
        )
        with scratch_session(model, weight.nbytes) as session:
            return [run_session(session, {layer.source: value})[0] for value in values]


def _restored(item: QuantisedLayer) -> Array:
    weight, layer = item.weight.astype(np.float32), item.layer
    if layer.block:
        return np.asarray(weight * item.weight_scale.repeat(layer.block, 1 - layer.axis))
    shape = [1] * weight.ndim
    shape[layer.axis] = -1
    return np.asarray(weight * item.weight_scale.reshape(shape), np.float32)
