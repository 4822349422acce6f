"""Activations from 0 upwards moved to lie around 0, where symmetric int8 uses all of its codes.

TensorRT takes int8 with a zero point of 0 alone, so of the 256 codes a ReLU6 uses 128. Where the
tensor goes into layers that add no padding, half of its range can be taken off before its Clip and
made up for behind it:

    Clip(z, 0, h) - c  =  Clip(z - c, -c, h - c)      and      W x + b  =  W (x - c) + (b + W c)

The operators stay what they are: the bias of the layer before, the bounds of the Clip and the
biases of the layers behind change. A Relu would have to become a Clip, and is left alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from deployfold.export.session import Array, open_session, run_session

from .graph import Layer

SHIFT_KEY = "deployfold.shift"
"""The metadata property of nodes whose output had this number taken off, for whoever compares
layers."""

_CONSTANT = frozenset({"Flatten", "GlobalAveragePool", "Identity", "Reshape", "Squeeze"})
"""Operators that give back a constant as it is."""

_TOPS = np.linspace(0.4, 1.0, 25)
"""Shares of the calibrated range that are tried as the upper end of what int8 represents."""

_CODES = 255.0
_SAMPLED = 4096
"""Elements of a tensor that are looked at in each sample."""


@dataclass(frozen=True, eq=False)
class _Place:
    """A Clip from 0 with the layer before it, and the layers and other operators behind it."""

    writer: ir.Node
    clip: ir.Node
    high: float
    passing: tuple[ir.Node, ...]
    readers: tuple[ir.Node, ...]

    @property
    def tensor(self) -> str:
        return str(self.clip.outputs[0].name)


def recentre(model: ir.Model, layers: Sequence[Layer], feeds: Sequence[Mapping[str, Array]]) -> int:
    """Move every such activation in place; the model stays the same function.

    Args:
        model: in float32.
        layers: of the model; see :func:`~.graph.find_layers`.
        feeds: calibration samples by input name.

    Returns:
        How many were moved.

    Raises:
        ExportError: ONNX Runtime cannot run the model.
    """
    places = list(_places(model, {layer.name for layer in layers}))
    tops = _tops(model, [place.tensor for place in places], feeds)
    for place in places:
        _move(model.graph, place, tops[place.tensor] / 2)
    return len(places)


def _places(model: ir.Model, layers: Collection[str]) -> Iterator[_Place]:
    for node in model.graph:
        high = _bound_of_clip(node)
        before = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
        if high is None or before is None or not _has_own_bias(before, layers):
            continue
        behind = _behind(node.outputs[0], layers)
        if behind is not None and behind[1] and _is_interior(before.outputs[0], readers=1):
            yield _Place(before, node, high, *behind)


def _behind(
    value: ir.Value, layers: Collection[str]
) -> tuple[tuple[ir.Node, ...], tuple[ir.Node, ...]] | None:
    """What a constant passes on its way to layers, and those; ``None`` where it meets others."""
    passing: tuple[ir.Node, ...] = ()
    readers: tuple[ir.Node, ...] = ()
    if not _is_interior(value):
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


def _is_interior(value: ir.Value, readers: int | None = None) -> bool:
    count = len(value.uses())
    return not value.is_graph_output() and (count == readers if readers else count > 0)


def _has_own_bias(node: ir.Node, layers: Collection[str]) -> bool:
    """Whether it is one of the layers, with a bias and weights that it alone reads."""
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


def _bound_of_clip(node: ir.Node) -> float | None:
    bounds = [value.const_value if value is not None else None for value in node.inputs[1:3]]
    if node.op_type != "Clip" or len(bounds) != 2 or None in bounds:
        return None
    low, high = (float(bound.numpy()) for bound in bounds if bound is not None)
    return high if low == 0.0 < high else None


def _tops(
    model: ir.Model, names: Sequence[str], feeds: Sequence[Mapping[str, Array]]
) -> dict[str, float]:
    """The upper end with the least squared error of each tensor, in 255 steps from 0."""
    if not names:
        return {}
    proto = ir.to_proto(model)
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = open_session(proto.SerializeToString(), optimize=False)
    random = np.random.default_rng(0)
    samples: dict[str, list[Array]] = {name: [] for name in names}
    tops = dict.fromkeys(names, 0.0)
    for feed in feeds:
        for name, value in zip(names, run_session(session, feed), strict=True):
            tops[name] = max(tops[name], float(value.max()))
            samples[name].append(random.choice(value.reshape(-1), _SAMPLED))
    return {name: _best_top(np.concatenate(samples[name]), tops[name]) for name in names}


def _best_top(values: Array, top: float) -> float:
    def error(end: float) -> float:
        cut = np.square(np.maximum(values - end, 0.0), dtype=np.float64).mean()
        return float(cut + np.square(end / _CODES) / 12.0)

    return float(min(top * _TOPS, key=error))


def _move(graph: ir.Graph, place: _Place, shift: float) -> None:
    _add(place.writer.inputs[2], np.float64(-shift))
    for index, bound in ((1, -shift), (2, place.high - shift)):
        place.clip.replace_input_with(index, _number(graph, f"{place.tensor}.bound{index}", bound))
    for reader in place.readers:
        weight = reader.inputs[1]
        assert weight is not None
        numbers = _numbers(weight)
        if reader.op_type == "Gemm" and not reader.attributes.get_int("transB", 0):
            numbers = numbers.T
        _add(reader.inputs[2], shift * numbers.reshape(len(numbers), -1).sum(1))
    for node in (place.writer, place.clip, *place.passing):
        node.metadata_props[SHIFT_KEY] = repr(shift)


def _number(graph: ir.Graph, name: str, number: float) -> ir.Value:
    tensor = ir.tensor(np.float32(number), name=name)
    value = ir.Value(
        name=name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype)
    )
    graph.register_initializer(value)
    return value


def _add(value: ir.Value | None, more: Array) -> None:
    assert value is not None
    value.const_value = ir.tensor((_numbers(value) + more).astype(np.float32), name=value.name)


def _numbers(value: ir.Value) -> Array:
    assert value.const_value is not None
    numbers: Array = value.const_value.numpy().astype(np.float64)
    return numbers
