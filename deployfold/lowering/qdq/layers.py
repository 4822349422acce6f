"""Finds the layers of an ONNX graph, and inserts Q/DQ nodes around them.

Q/DQ nodes stand only where TensorRT fuses them:

1. The activation in front of a layer has one pair per tensor, and all layers that read the tensor
   share the pair.
2. A layer's weight has a DequantizeLinear alone, with one scale per output channel.
3. A bias has none, because the accumulator adds the bias in its own precision.
4. The output of a layer has none. TensorRT fuses the activation or sum behind the layer, and the
   next layer's pair follows.
5. The skip of a residual sum has a pair only at the user's request (see :mod:`.skips`); other
   operands of a sum have none. Rounding the skip costs accuracy. The gain on a GPU: not measured.
6. Products of two activations (attention) have none, because no weight could compensate for their
   error.
7. A format for weights alone has only the nodes of 2, with one scale for every block of inputs of
   every output channel if the format has blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from deployfold.errors import ExportError
from deployfold.lowering.graph import operand, weight_of
from deployfold.util.arrays import Array
from deployfold.util.onnx_values import LAYERS, drop_unused, initializer

from .formats import Format


@dataclass(frozen=True)
class Skip:
    """A residual sum behind a layer.

    Attributes:
        source: name of the tensor that is added to the layer's output.
        total: name of the sum.
    """

    source: str
    total: str


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution or matrix product with a constant weight.

    Attributes:
        name: name of the ONNX node.
        op_type: Conv, ConvTranspose, Gemm or MatMul.
        source: name of the input activation.
        output: name of the output tensor.
        weight, bias: names of the initialisers; ``bias`` is ``None`` for a layer without a bias.
        axis: the axis of output channels in the weight.
        groups: number of groups of a convolution.
        block: number of inputs that share a scale; 0 for one scale an output channel.
        skip: the residual sum with a skip to quantise; ``None`` without such a sum.
    """

    name: str
    op_type: str
    source: str
    output: str
    weight: str
    bias: str | None
    axis: int
    groups: int = 1
    block: int = 0
    skip: Skip | None = None


@dataclass(frozen=True, eq=False)
class QuantisedLayer:
    """The quantised weight, bias and scales of a layer.

    Attributes:
        weight: the codes, in the type of the format and the shape of the weight.
        weight_scale: float32, one scale for each output channel. With blocks, the shape is that of
            the weight with the number of blocks on the axis of inputs.
        bias: the corrected bias, float32; ``None`` for a layer without a bias.
        scale: the scale of the input activation, a positive float32; ``None`` if the activation is
            not rounded.
        skip_scale: the scale of the layer's skip, a positive float32; ``None`` if the skip is not
            rounded.
    """

    layer: Layer
    weight: Array
    weight_scale: Array
    bias: Array | None
    scale: float | None
    skip_scale: float | None = None


def find_layers(model: ir.Model) -> list[Layer]:
    """Every layer of the main graph that can be quantised, in node order."""
    layers = (
        _layer(node)
        for node in model.graph
        if node.op_type in LAYERS and node.domain in ("", "ai.onnx")
    )
    return [layer for layer in layers if layer is not None]


def suitable_layers(
    model: ir.Model, form: Format, asked: Mapping[str, str]
) -> tuple[list[Layer], dict[str, str]]:
    """All layers of a model, and by name the reasons why some of them must not be quantised.

    Raises:
        ExportError: no layer can be quantised.
    """
    layers, unfit = [], {}
    for layer in find_layers(model):
        weight = weight_of(model.graph.initializers[layer.weight]).shape.numpy()
        block: int | None = 0
        if layer.name in asked:
            unfit[layer.name] = asked[layer.name]
        elif form.blocks and layer.op_type not in ("Gemm", "MatMul"):
            unfit[layer.name] = f"{form.precision.value} is for matrix products"
        elif form.blocks:
            width = int(weight[1 - layer.axis])
            block = form.block_of(width)
            if block is None:
                unfit[layer.name] = f"its {width} inputs are not a multiple of {form.blocks[-1]}"
        layers.append(replace(layer, block=block or 0))
    if len(unfit) == len(layers):
        wanted = "convolution or matrix product in float32 with a constant weight"
        if form.blocks:
            wanted = f"matrix product with a constant weight of {form.blocks[-1]}, 64, 96 … inputs"
        raise ExportError(
            f"The model has no {wanted}, so there is nothing to quantise.",
            hint="Build it with --fp16.",
        )
    return layers, unfit


def _layer(node: ir.Node) -> Layer | None:
    source, weight = node.inputs[0], node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if source is None or weight is None or not node.name or not _is_float_weight(weight):
        return None
    if source.const_value is not None or source.dtype not in (ir.DataType.FLOAT, None):
        return None
    if bias is not None and not _is_float_weight(bias):
        return None
    axis = _channel_axis(node, weight, bias)
    if axis is None:
        return None
    return Layer(
        name=node.name,
        op_type=node.op_type,
        source=str(source.name),
        output=str(node.outputs[0].name),
        weight=str(weight.name),
        bias=None if bias is None else str(bias.name),
        axis=axis,
        groups=node.attributes.get_int("group", 1),
    )


def _is_float_weight(value: ir.Value) -> bool:
    constant = value.const_value is not None and value.is_initializer()
    return constant and value.dtype == ir.DataType.FLOAT


def _channel_axis(node: ir.Node, weight: ir.Value, bias: ir.Value | None) -> int | None:
    """The axis of output channels in the weight; ``None`` if there is no single axis.

    A Gemm with a transposed input, a factor other than 1 or a bias that is not a vector gives
    ``None`` as well.
    """
    attributes, rank = node.attributes, len(weight_of(weight).shape)
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":  # with groups, a channel is two axes of the weight
        return 1 if attributes.get_int("group", 1) == 1 else None
    if node.op_type == "MatMul":
        return 1 if rank == 2 else None
    scaled = (attributes.get_float("alpha", 1.0), attributes.get_float("beta", 1.0)) != (1.0, 1.0)
    vector = bias is None or (bias.const_value is not None and len(bias.const_value.shape) == 1)
    if scaled or not vector or attributes.get_int("transA", 0):
        return None
    return 0 if attributes.get_int("transB", 0) else 1


def insert(model: ir.Model, quantised: Mapping[str, QuantisedLayer], form: Format) -> None:
    """Insert Q/DQ nodes around the layers in ``quantised``, in place."""
    graph = model.graph
    nodes = {node.name: node for node in graph}
    pairs: dict[str, ir.Value] = {}
    for name, item in quantised.items():
        node = nodes[name]
        if item.scale is not None:
            _round_input(graph, pairs, node, 0, item.scale, form)
        if item.skip_scale is not None:
            ((add, index),) = node.outputs[0].uses()
            _round_input(graph, pairs, add, 1 - index, item.skip_scale, form)
        node.replace_input_with(1, _weight(graph, node, item, form))
        if item.bias is not None:
            node.replace_input_with(2, initializer(graph, f"{name}.bias_corrected", item.bias))
    graph.sort()
    drop_unused(graph)


def dequantised_input(tensor: str) -> str:
    """The name of an activation after its Q/DQ pair."""
    return f"{tensor}.q"


def dequantised_weight(node: str) -> str:
    """The name of a layer's weight after its DequantizeLinear."""
    return f"{node}.weight"


def _round_input(
    graph: ir.Graph,
    pairs: dict[str, ir.Value],
    node: ir.Node,
    index: int,
    step: float,
    form: Format,
) -> None:
    """Let ``node`` read its input ``index`` through the tensor's shared Q/DQ pair."""
    source = operand(node, index)
    name = str(source.name)
    if name not in pairs:
        pairs[name] = _pair(graph, node, source, step, form)
    node.replace_input_with(index, pairs[name])


def _pair(graph: ir.Graph, node: ir.Node, source: ir.Value, step: float, form: Format) -> ir.Value:
    base, kind = str(source.name), form.precision.value
    scale = initializer(graph, f"{base}.scale", np.float32(step))
    zero = initializer(graph, f"{base}.zero_point", form.stored(np.zeros(())))
    quantise = _node("QuantizeLinear", [source, scale, zero], f"{base}.{kind}", form.dtype)
    restore = _node(
        "DequantizeLinear",
        [quantise.outputs[0], scale, zero],
        dequantised_input(base),
        ir.DataType.FLOAT,
    )
    for new in (quantise, restore):
        new.outputs[0].shape = source.shape
    graph.insert_before(node, [quantise, restore])
    return restore.outputs[0]


def _weight(graph: ir.Graph, node: ir.Node, item: QuantisedLayer, form: Format) -> ir.Value:
    name = item.layer.name
    weight = initializer(graph, f"{name}.weight_{form.precision.value}", item.weight)
    scale = initializer(graph, f"{name}.weight_scale", item.weight_scale)
    inputs, axis = [weight, scale], {"axis": item.layer.axis}
    if item.layer.block:
        axis = {"axis": 1 - item.layer.axis, "block_size": item.layer.block}
    else:
        zeros = form.stored(np.zeros(len(item.weight_scale)))
        inputs.append(initializer(graph, f"{name}.weight_zero_point", zeros))
    output = dequantised_weight(name)
    restore = _node("DequantizeLinear", inputs, output, ir.DataType.FLOAT, **axis)
    restore.outputs[0].shape = weight.shape
    graph.insert_before(node, [restore])
    return restore.outputs[0]


def _node(
    op_type: str, inputs: list[ir.Value], name: str, dtype: ir.DataType, **attributes: Any
) -> ir.Node:
    node = ir.node(op_type, inputs, attributes=attributes, num_outputs=1, name=name)
    node.outputs[0].name = name
    node.outputs[0].type = ir.TensorType(dtype)
    return node


def numbers(value: ir.Value) -> Array:
    """The values of an initialiser, in float64."""
    held: Array = weight_of(value).numpy().astype(np.float64)
    return held


def replace_numbers(value: ir.Value, new: Array) -> None:
    """Replace the values of an initialiser by ``new``, in float32."""
    value.const_value = ir.tensor(new.astype(np.float32), name=value.name)
