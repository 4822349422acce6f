"""The two rules that fold a BatchNormalization node of an ONNX graph or give a reason to leave it.

1. :func:`into_producer`: the node before is a Conv, ConvTranspose, Gemm or MatMul with a constant
   weight, or an Add of a constant behind such a node. The tensors between have no other readers.
2. :func:`into_consumers`: every node behind is a Conv, Gemm or MatMul with a constant weight. If
   the shift is not zero, a convolution must not pad: zero padding would mix with the shift.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from deployfold.util.arrays import Array
from deployfold.util.onnx_values import LAYERS, constant

from .change import CONSUMERS, PRODUCER, Change, LayerChange, label


def find_change(norm: ir.Node) -> Change | str:
    """The change that folds ``norm``, or the reason why the node stays."""
    affine = affine_of(norm)
    if isinstance(affine, str):
        return affine
    source = norm.inputs[0]
    if source is None:
        return "it has no input"
    above = into_producer(norm, source, *affine)
    if isinstance(above, Change):
        return above
    below = into_consumers(norm, *affine)
    return below if isinstance(below, Change) else f"{above}; and {below}"


def affine_of(norm: ir.Node) -> tuple[Array, Array] | str:
    """The scale and shift of every channel, of shape ``(channels,)`` in float64, or a reason.

    ``scale = weight / sqrt(variance + epsilon)``, ``shift = bias - mean * scale`` (ONNX's
    BatchNormalization with ``training_mode`` 0; before opset 14, further outputs mean training).
    The reason explains why the node is not a constant channel-wise affine map.
    """
    if norm.attributes.get_int("training_mode", 0) or any(out.name for out in norm.outputs[1:]):
        return "it is in training mode, so it depends on the batch"
    if not norm.attributes.get_int("spatial", 1):
        return "it has statistics for every position, not for every channel"
    arrays = [constant(value) for value in norm.inputs[1:5]]
    if any(array is None for array in arrays):
        return "its statistics are computed by the graph, not constant"
    weight, bias, mean, variance = (np.asarray(array, np.float64) for array in arrays)
    epsilon = float(np.float32(norm.attributes.get_float("epsilon", 1e-5)))  # ONNX stores float32
    scale = weight / np.sqrt(variance + epsilon)
    shift = bias - mean * scale
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return "its scale or shift is NaN or infinite"
    return scale, shift


def into_producer(norm: ir.Node, source: ir.Value, scale: Array, shift: Array) -> Change | str:
    """Fold ``norm`` into the layer before, or return the reason why the rule does not apply."""
    node = source.producer()
    if node is None:
        return f"its input {source.name!r} comes from no layer"
    if (other := _other_reader(source, norm)) is not None:
        return f"its input is also {other}"
    layers: list[LayerChange] = []
    if node.op_type == "Add" and not node.domain:
        found = _constant_addition(node, len(scale))
        if found is None:
            return f"its input is {_title(node)}, which adds no constant of one number a channel"
        position, bias = found
        added = bias.reshape(-1) * scale + shift
        shape = bias.shape if bias.size == len(scale) else _channels_shape(norm, len(scale))
        if shape is None:
            return "the rank of its input is not known"
        layers.append(LayerChange(node, {position: added.reshape(shape)}))
        inner = node.inputs[1 - position]
        if inner is None:
            return f"its input is {_title(node)}, which adds nothing to its constant"
        if (other := _other_reader(inner, node)) is not None:
            return f"the layer before it is also {other}"
        before, node = node, inner.producer()
        if node is None:
            return f"its input is {_title(before)}, behind no layer"
        shift = np.zeros_like(shift)
    change = _scaled_rows(node, norm, scale, shift, alone=not layers)
    if isinstance(change, str):
        return change
    layers.insert(0, change)
    return Change(norm, PRODUCER, tuple(layers), _probe(change))


def into_consumers(norm: ir.Node, scale: Array, shift: Array) -> Change | str:
    """Fold ``norm`` into every layer behind, or return the reason why the rule does not apply."""
    result = norm.outputs[0]
    if result.is_graph_output():
        return "its output is an output of the model"
    users = list(result.uses())
    if not users:
        return "nothing reads its output"
    layers = []
    for user, position in users:
        change = _scaled_columns(user, position, scale, shift)
        if isinstance(change, str):
            return change
        layers.append(change)
    if len({id(one.node) for one in layers}) < len(layers):
        return "one layer reads it twice"
    shapes = [_probe(one) for one in layers]
    if len({len(shape) for shape in shapes}) > 1:
        return "the layers behind it have different ranks"
    largest: Any = np.max(shapes, axis=0)
    return Change(norm, CONSUMERS, tuple(layers), tuple(int(size) for size in largest))


def _scaled_rows(
    node: ir.Node, norm: ir.Node, scale: Array, shift: Array, *, alone: bool
) -> LayerChange | str:
    """Scale the output channels of ``node``; if ``alone``, also add the shift.

    ``alone`` is false if a constant Add lies between ``node`` and ``norm`` and takes the shift.
    """
    if node.op_type not in LAYERS or node.domain:
        return f"its input comes from {_title(node)}, which has no weight to fold into"
    weight = constant(node.inputs[1])
    if weight is None:
        return f"the weight of {_title(node)} before it is computed by the graph"
    if constant(node.inputs[0]) is not None:
        return f"{_title(node)} before it reads a constant"
    weight = weight.astype(np.float64)
    if node.op_type == "MatMul":
        if weight.ndim != 2 or _rank(norm.inputs[0]) != 2:
            return f"its channels are not the columns of the weight of {_title(node)}"
        return LayerChange(node, {1: weight * scale}, shift=shift if alone else None)
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else 0.0
    if bias is None:
        return f"the bias of {_title(node)} before it is computed by the graph"
    if node.op_type == "Gemm":
        rows = scale[:, None] if node.attributes.get_int("transB", 0) else scale
        constants = {1: weight * rows}
        beta = node.attributes.get_float("beta", 1.0)
        constants[2] = beta * np.asarray(bias, np.float64) * scale + shift
        return LayerChange(node, constants, attributes={"beta": 1.0} if beta != 1.0 else {})
    groups = node.attributes.get_int("group", 1)
    if node.op_type == "Conv":
        scaled = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    else:
        grouped = weight.reshape(groups, -1, *weight.shape[1:])
        factors = scale.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
        scaled = (grouped * factors).reshape(weight.shape)
    constants = {1: scaled}
    if alone or not np.isscalar(bias):
        constants[2] = np.asarray(bias, np.float64) * scale + shift
    return LayerChange(node, constants)


def _scaled_columns(node: ir.Node, position: int, scale: Array, shift: Array) -> LayerChange | str:
    """Scale the input channels of ``node`` and add the effect of the shift to its bias."""
    if node.op_type not in ("Conv", "Gemm", "MatMul") or node.domain or position != 0:
        return f"its output goes to {_title(node)}, which has no weight to fold into"
    weight = constant(node.inputs[1])
    if weight is None:
        return f"the weight of {_title(node)} behind it is computed by the graph"
    weight = weight.astype(np.float64)
    if node.op_type == "MatMul":
        if weight.ndim != 2 or _rank(node.inputs[0]) != 2:
            return f"its channels are not the rows of the weight of {_title(node)}"
        return LayerChange(node, {1: weight * scale[:, None]}, shift=shift @ weight)
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else 0.0
    if bias is None:
        return f"the bias of {_title(node)} behind it is computed by the graph"
    if node.op_type == "Gemm":
        if node.attributes.get_int("transA", 0):
            return f"{_title(node)} behind it transposes its input"
        transposed = bool(node.attributes.get_int("transB", 0))
        columns = weight if not transposed else weight.T
        beta, alpha = (
            node.attributes.get_float("beta", 1.0),
            node.attributes.get_float("alpha", 1.0),
        )
        added = beta * np.asarray(bias, np.float64) + alpha * (shift @ columns)
        scaled = weight * (scale if transposed else scale[:, None])
        return LayerChange(
            node, {1: scaled, 2: added}, attributes={"beta": 1.0} if beta != 1.0 else {}
        )
    if shift.any() and pads(node):
        return f"the zero padding of {_title(node)} behind it would mix with the shift"
    groups = node.attributes.get_int("group", 1)
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    ones = [1] * (weight.ndim - 2)
    scaled = (grouped * scale.reshape(groups, 1, -1, *ones)).reshape(weight.shape)
    sums = grouped.sum(axis=tuple(range(3, grouped.ndim)))
    added = np.einsum("gc,goc->go", shift.reshape(groups, -1), sums).reshape(-1)
    constants = {1: scaled}
    if shift.any() or not np.isscalar(bias):
        constants[2] = np.asarray(bias, np.float64) + added
    return LayerChange(node, constants)


def _constant_addition(node: ir.Node, channels: int) -> tuple[int, Array] | None:
    """The input position and value of an Add's constant, one number for all or each channel.

    The value is float64. The result is ``None`` for any other Add.
    """
    for position in (1, 0):
        array = constant(node.inputs[position])
        if array is None:
            continue
        rank = _rank(node.outputs[0])
        single = array.size == 1
        aligned = rank is not None and array.ndim == rank and array.shape[1:2] == (channels,)
        trailing = rank is not None and rank - array.ndim <= 1 and array.size == channels
        shaped = (1,) * (rank - array.ndim) + array.shape if rank is not None else ()
        fits = trailing and shaped[1:2] == (channels,)
        if single or (aligned and array.size == channels) or fits:
            return position, array.astype(np.float64)
    return None


def _channels_shape(norm: ir.Node, channels: int) -> tuple[int, ...] | None:
    rank = _rank(norm.inputs[0])
    return None if rank is None else (channels, *[1] * (rank - 2))


def _probe(change: LayerChange) -> tuple[int, ...]:
    """The shape of a small input, with a batch of 2, that uses every tap of the layer's kernel."""
    node, weight = change.node, change.constants[1]
    if node.op_type == "MatMul":
        return (2, weight.shape[0])
    if node.op_type == "Gemm":
        width = weight.shape[1] if node.attributes.get_int("transB", 0) else weight.shape[0]
        return (width, 2) if node.attributes.get_int("transA", 0) else (2, width)
    kernel = weight.shape[2:]
    if node.op_type == "ConvTranspose":
        return (2, weight.shape[0], *[3] * len(kernel))
    steps = node.attributes.get_ints("dilations", [1] * len(kernel))
    sizes = [(taps - 1) * step + 3 for taps, step in zip(kernel, steps, strict=True)]
    return (2, weight.shape[1] * node.attributes.get_int("group", 1), *sizes)


def pads(node: ir.Node) -> bool:
    """Whether a Conv pads its input."""
    automatic = node.attributes.get_string("auto_pad", "NOTSET")
    return automatic not in ("NOTSET", "VALID") or any(node.attributes.get_ints("pads", ()))


def _other_reader(value: ir.Value, reader: ir.Node) -> str | None:
    """The other reader of a value, as a phrase to follow «is also»; ``None`` without a reader."""
    if value.is_graph_output():
        return "an output of the model"
    others = [node for node, _ in value.uses() if node is not reader]
    return f"read by {_title(others[0])}" if others else None


def _title(node: ir.Node) -> str:
    return f"{node.op_type} {label(node)!r}"


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)
