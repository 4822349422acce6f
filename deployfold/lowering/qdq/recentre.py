"""Shifts non-negative activations to lie around 0, and so lets symmetric int8 use all codes.

TensorRT takes int8 only with a zero point of 0, so a ReLU6 uses 128 of the 256 codes. If the next
layers add no padding, half of the range can be subtracted before the Clip and restored afterwards:

    Clip(z, 0, h) - c  =  Clip(z - c, -c, h - c)      and      W x + b  =  W (x - c) + (b + W c)

No operator is added or removed. Only three kinds of numbers change: the bias of the layer before
the Clip, the bounds of the Clip, and the biases of the next layers. A Relu would have to become a
Clip, and is left alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from deployfold.lowering.activations import observe
from deployfold.lowering.graph import operand
from deployfold.util.arrays import Array
from deployfold.util.onnx_values import initializer

from .coupled import clip_bound
from .layers import Layer, numbers, replace_numbers

SHIFT_KEY = "deployfold.shift"
"""The metadata property of a node with a shifted output: the subtracted number. Layer comparisons
read the property."""

_CONSTANT = frozenset({"Flatten", "GlobalAveragePool", "Identity", "Reshape", "Squeeze"})
"""Operators that pass a constant tensor through unchanged."""

_TOPS = np.linspace(0.4, 1.0, 25)
"""Candidates for the upper end of the int8 range, as shares of the calibrated range."""

_CODES = 255.0
_FEEDS = 16
"""Most samples for the middles: an outlier does not move one far."""

_SAMPLED = 65_536
"""About how many elements are drawn from a tensor, from all samples together."""


@dataclass(frozen=True, eq=False)
class _Place:
    """A Clip from 0 with an activation that can be shifted.

    Attributes:
        high: the upper bound of the Clip.
        passing: operators behind the Clip that pass a constant unchanged.
        readers: the layers that read the activation.
    """

    writer: ir.Node
    clip: ir.Node
    high: float
    passing: tuple[ir.Node, ...]
    readers: tuple[ir.Node, ...]

    @property
    def tensor(self) -> str:
        return str(self.clip.outputs[0].name)


def recentre(model: ir.Model, layers: Sequence[Layer], feeds: Sequence[Mapping[str, Array]]) -> int:
    """Shift every suitable activation in place, without changing the model's function.

    Args:
        layers: the layers that may be changed; see :func:`~.layers.find_layers`.

    Returns:
        The number of shifted activations.

    Raises:
        ExportError: ONNX Runtime cannot run the model.
    """
    places = list(_places(model, {layer.name for layer in layers}))
    tops = _tops(model, [place.tensor for place in places], feeds[:: -(-len(feeds) // _FEEDS)])
    for place in places:
        _move(model.graph, place, tops[place.tensor] / 2)
    return len(places)


def _places(model: ir.Model, layers: Collection[str]) -> Iterator[_Place]:
    for node in model.graph:
        high = clip_bound(node)
        before = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
        if high is None or before is None or not _has_own_bias(before, layers):
            continue
        behind = _behind(node.outputs[0], layers)
        result = before.outputs[0]
        if behind is not None and len(result.uses()) == 1 and not result.is_graph_output():
            yield _Place(before, node, high, *behind)


def _behind(
    value: ir.Value, layers: Collection[str]
) -> tuple[tuple[ir.Node, ...], tuple[ir.Node, ...]] | None:
    """The operators that pass a constant on from ``value``, and the layers that read it.

    ``None`` if another operator or a graph output reads the value as well.
    """
    passing: tuple[ir.Node, ...] = ()
    readers: tuple[ir.Node, ...] = ()
    if value.is_graph_output() or not value.uses():
        return None
    for node, index in value.uses():
        if index == 0 and _has_own_bias(node, layers) and not _pads(node):
            readers += (node,)
            continue
        further = _behind(node.outputs[0], layers) if node.op_type in _CONSTANT else None
        if index != 0 or further is None:
            return None
        passing, readers = (*passing, node, *further[0]), readers + further[1]
    return passing, readers


def _has_own_bias(node: ir.Node, layers: Collection[str]) -> bool:
    """Whether a node is one of the layers, and the only reader of its weight and bias."""
    own = [value for value in node.inputs[1:] if value is not None]
    return (
        node.op_type in ("Conv", "Gemm")
        and node.name in layers
        and len(own) == 2
        and all(node.attributes.get_float(key, 1.0) == 1.0 for key in ("alpha", "beta"))
        and all(value.const_value is not None and len(value.uses()) == 1 for value in own)
    )


def _pads(node: ir.Node) -> bool:
    automatic = node.attributes.get_string("auto_pad", "NOTSET")
    return automatic in ("SAME_UPPER", "SAME_LOWER") or any(node.attributes.get_ints("pads", ()))


def _tops(
    model: ir.Model, names: Sequence[str], feeds: Sequence[Mapping[str, Array]]
) -> dict[str, float]:
    """The upper end of each tensor's range with the least squared error, for 255 steps from 0."""
    random = np.random.default_rng(0)
    samples: dict[str, list[Array]] = {name: [] for name in names}
    tops = dict.fromkeys(names, 0.0)
    for name, value in observe(model, names, feeds):
        tops[name] = max(tops[name], float(value.max()))
        samples[name].append(random.choice(value.reshape(-1), -(-_SAMPLED // len(feeds))))
    return {name: _best_top(np.concatenate(samples[name]), tops[name]) for name in names}


def _best_top(values: Array, top: float) -> float:
    def error(end: float) -> float:
        cut = np.square(np.maximum(values - end, 0.0), dtype=np.float64).mean()
        return float(cut + np.square(end / _CODES) / 12.0)

    return float(min(top * _TOPS, key=error))


def _move(graph: ir.Graph, place: _Place, shift: float) -> None:
    _add(operand(place.writer, 2), np.float64(-shift))
    for index, bound in ((1, -shift), (2, place.high - shift)):
        new = initializer(graph, f"{place.tensor}.bound{index}", np.float32(bound))
        place.clip.replace_input_with(index, new)
    for reader in place.readers:
        weight = numbers(operand(reader, 1))
        if reader.op_type == "Gemm" and not reader.attributes.get_int("transB", 0):
            weight = weight.T
        _add(operand(reader, 2), shift * weight.reshape(len(weight), -1).sum(1))
    for node in (place.writer, place.clip, *place.passing):
        node.metadata_props[SHIFT_KEY] = repr(shift)


def _add(value: ir.Value, more: Array) -> None:
    replace_numbers(value, numbers(value) + more)
