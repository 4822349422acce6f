"""Equal ranges for the channels that a depthwise convolution reads.

Int8 has one range for all channels of an activation, and in a depthwise convolution nothing
averages a bad one out: what a channel loses, its output lacks. Between two layers with nothing but
activations that scale with their input, each channel can be multiplied by a factor of its own and
divided by it again (cross-layer equalisation: Nagel et al., 2019). Here that costs nothing: the
factor of an output channel of the first layer, and of the one input channel that a filter of the
second reads, disappears in the int8 scale of that channel's weights.

A pair of layers is equalised where

1. every reader of the tensor is a depthwise convolution;
2. between it and the layer that computes it stand only Relu, LeakyRelu, pooling, and Clip from 0;
3. nothing else reads what lies between, or the weights of either layer.

A factor is at least 1, and under a Clip no greater than what keeps the calibrated range, with
:data:`HEADROOM`, below the bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from deployfold.export.session import Array, open_session, run_session

from .graph import Layer

HEADROOM = 1.1
"""How far beyond its calibrated range a channel can still go under a Clip."""

LARGEST = 256.0
"""The greatest factor; a channel that is so small that it would need more is as good as zero."""

_SCALING = frozenset({"Relu", "LeakyRelu", "Clip", "MaxPool", "AveragePool"})


@dataclass(frozen=True, eq=False)
class _Pair:
    """The tensor between two layers; ``bound`` is the least upper bound of the Clips before it."""

    tensor: ir.Value
    producer: ir.Node
    axis: int
    readers: tuple[ir.Node, ...]
    bound: float


def equalise(model: ir.Model, layers: Sequence[Layer], feeds: Sequence[Mapping[str, Array]]) -> int:
    """Scale the weights of every pair of layers in place; the model stays the same function.

    Args:
        model: in float32.
        layers: of the model; see :func:`~.graph.find_layers`.
        feeds: calibration samples by input name.

    Returns:
        How many tensors were equalised.

    Raises:
        ExportError: ONNX Runtime cannot run the model.
    """
    axes = {layer.name: layer.axis for layer in layers}
    found = (_pair(node, axes) for node in model.graph if node.name in axes)
    pairs = {pair.tensor.name: pair for pair in found if pair is not None}
    if not pairs:
        return 0
    ranges = _channel_ranges(model, [str(name) for name in pairs], feeds)
    for pair in pairs.values():
        factors = _factors(ranges[str(pair.tensor.name)], pair.bound)
        _scale(pair.producer, pair.axis, factors)
        bias = pair.producer.inputs[2] if len(pair.producer.inputs) > 2 else None
        if bias is not None:
            _multiply(bias, factors)
        for reader in pair.readers:
            weight = reader.inputs[1]
            assert weight is not None
            assert weight.const_value is not None
            per_channel = weight.const_value.shape[0] // len(factors)
            _scale(reader, 0, 1.0 / np.repeat(factors, per_channel))
    return len(pairs)


def _pair(node: ir.Node, axes: Mapping[str, int]) -> _Pair | None:
    """The pair that ends in ``node``, if it is a depthwise convolution after a layer."""
    tensor = node.inputs[0]
    if tensor is None or tensor.is_graph_output():
        return None
    readers = tuple(tensor.consumers())
    if not all(_is_depthwise(reader) and reader.name in axes for reader in readers):
        return None
    bound, value = float("inf"), tensor
    producer = value.producer()
    while producer is not None and producer.op_type in _SCALING:
        if producer.op_type == "Clip":
            clip = _clip_bound(producer)
            if clip is None:
                return None
            bound = min(bound, clip)
        before = producer.inputs[0]
        if before is None or len(before.uses()) != 1 or before.is_graph_output():
            return None
        value, producer = before, before.producer()
    if producer is None or producer.op_type != "Conv" or producer.name not in axes:
        return None
    if not all(_is_own(value) for one in (producer, *readers) for value in one.inputs[1:]):
        return None
    return _Pair(tensor, producer, axes[producer.name or ""], readers, bound)


def _is_depthwise(node: ir.Node) -> bool:
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if node.op_type != "Conv" or weight is None or weight.const_value is None:
        return False
    return bool(weight.const_value.shape[1] == 1) and node.attributes.get_int("group", 1) > 1


def _is_own(value: ir.Value | None) -> bool:
    return value is None or len(value.uses()) == 1


def _clip_bound(node: ir.Node) -> float | None:
    """The upper bound of a Clip from 0; ``None`` for another one."""
    bounds = [value.const_value if value is not None else None for value in node.inputs[1:3]]
    given = [value is not None for value in node.inputs[1:3]]
    if given != [True, True] or None in bounds:
        return None
    low, high = (float(bound.numpy()) for bound in bounds if bound is not None)
    return high if low == 0.0 < high else None


def _channel_ranges(
    model: ir.Model, names: Sequence[str], feeds: Sequence[Mapping[str, Array]]
) -> dict[str, Array]:
    """The largest magnitude of every channel of the tensors, over all samples."""
    proto = ir.to_proto(model)
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = open_session(proto.SerializeToString(), optimize=False)
    tops: dict[str, Array] = {}
    for feed in feeds:
        for name, value in zip(names, run_session(session, feed), strict=True):
            top = np.abs(value).max(axis=(0, *range(2, value.ndim)))
            tops[name] = np.maximum(tops[name], top) if name in tops else top
    return tops


def _factors(tops: Array, bound: float) -> Array:
    tops = tops.astype(np.float64)
    target = np.minimum(tops.max(), bound / HEADROOM)
    factors = target / np.maximum(tops, target / LARGEST)
    return np.where(tops > 0.0, np.clip(factors, 1.0, LARGEST), 1.0)


def _scale(node: ir.Node, axis: int, factors: Array) -> None:
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    shape = [1] * len(weight.const_value.shape)
    shape[axis] = -1
    _multiply(weight, factors.reshape(shape))


def _multiply(value: ir.Value, factors: Array) -> None:
    assert value.const_value is not None
    product = value.const_value.numpy().astype(np.float64) * factors
    value.const_value = ir.tensor(product.astype(np.float32), name=value.name)
