"""Models that arrive with Q/DQ nodes, from quantisation-aware training or another quantiser.

Their scales stay. :func:`take_over` brings the nodes into the form that TensorRT takes; no code of
a weight changes its value:

1. A float weight behind its own Q/DQ pair becomes codes behind a DequantizeLinear.
2. An int32 bias behind a DequantizeLinear becomes a float32 bias, and so do the parameters of a
   BatchNorm.
3. Constant factors and addends between a layer and its BatchNorm move into the BatchNorm.
   torch.ao's training of both together divides by the scale of the BatchNorm there.
4. A scale of one number becomes a scalar: TensorRT-RTX computes a convolution behind a scale of the
   shape (1,) in fp16.
5. uint8 with the zero point 128 becomes int8 with the zero point 0. Other zero points are refused,
   because TensorRT has none.
6. A Clip of codes, by which brevitas gives a range narrower than int8, clips the values in front of
   the QuantizeLinear, or disappears where the codes are constant: :func:`clip_values`.

A BatchNorm behind a layer folds into the scales of its weight; see :mod:`.given_weights`.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from deployfold.config.precision import Precision
from deployfold.errors import ExportError, first_few
from deployfold.util.arrays import Array
from deployfold.util.onnx_values import constant, drop_unused, initializer

from .formats import FORMATS
from .given_weights import join_scalings
from .qdq_nodes import (
    DEQUANTISE,
    HINT,
    QUANTISE,
    dequantised,
    quantised,
    scales,
    stored_type,
    zero_point,
)

_OWN_OPERATORS = frozenset({"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"})
"""Operators that compute in int8 themselves; TensorRT takes Q/DQ nodes alone."""
_MIDDLE = 128
"""The zero point of uint8 that makes the codes those of int8, shifted."""


def quantised_as(model: ir.Model) -> Precision | None:
    """The precision of the Q/DQ nodes that a model holds; ``None`` for a float model.

    Raises:
        ExportError: operators of the model compute in int8 themselves.
    """
    nodes = list(model.graph)
    own = sorted({node.op_type for node in nodes if node.op_type in _OWN_OPERATORS})
    if own:
        raise ExportError(f"The model computes in int8 by {first_few(own)} nodes.", hint=HINT)
    types = [stored_type(node) for node in nodes if node.op_type == DEQUANTISE]
    signed = [ir.DataType.INT8 if dtype == ir.DataType.UINT8 else dtype for dtype in types]
    alone = not any(node.op_type == QUANTISE and constant(node.inputs[0]) is None for node in nodes)
    forms = sorted(FORMATS.values(), key=lambda form: form.weight_only is not alone)
    counts = [(signed.count(form.dtype), form.precision) for form in forms]
    count, precision = max(counts, key=lambda one: one[0])
    return precision if count else None


def clip_values(model: ir.Model) -> None:
    """Do case 6 for every Clip of codes, in place; :func:`without_pairs` knows no other form.

    Raises:
        ExportError: the graph computes a scale or a zero point.
    """
    graph = model.graph
    for node in [one for one in graph if one.op_type == "Clip"]:
        source = node.inputs[0]
        codes, maker = constant(source), None if source is None else source.producer()
        ends = [constant(value) for value in (*node.inputs[1:], None, None)[:2]]
        if codes is not None and codes.dtype in (np.int8, np.uint8):
            narrow = np.clip(codes, ends[0], ends[1])
            _replace(graph, node, initializer(graph, str(node.outputs[0].name), narrow))
        elif maker is not None and maker.op_type == QUANTISE and len(node.inputs[0].uses()) == 1:
            _clip_before(node, maker, ends, graph)


def _clip_before(node: ir.Node, maker: ir.Node, ends: list[Array | None], graph: ir.Graph) -> None:
    step, zero, value = scales(maker), zero_point(maker), maker.inputs[0]
    if step.size != 1 or value is None:
        return
    offset = 0.0 if zero is None else float(zero.reshape(()))
    clip = ir.node("Clip", [value, None, None], name=f"{node.name}.values")
    for index, end in enumerate(ends, 1):
        if end is not None:
            bound = np.float32((float(end) - offset) * float(step.reshape(())))
            clip.replace_input_with(index, initializer(graph, f"{clip.name}.{index}", bound))
    output = clip.outputs[0]
    output.name, output.type, output.shape = clip.name, value.type, value.shape
    graph.insert_before(maker, clip)
    maker.replace_input_with(0, output)
    _replace(graph, node, maker.outputs[0])


def take_over(model: ir.Model) -> None:
    """Bring the Q/DQ nodes of a prepared model into the form that TensorRT takes, in place.

    Raises:
        ExportError: a zero point is neither 0 nor the middle of uint8.
    """
    graph = model.graph
    for node in [one for one in graph if one.op_type == QUANTISE]:
        values = constant(node.inputs[0])
        if values is None:
            _shift(node, graph)
        else:  # case 1
            codes = quantised(values, node)
            _replace(graph, node, initializer(graph, str(node.outputs[0].name), codes))
    for node in [one for one in graph if one.op_type == DEQUANTISE]:
        stored = constant(node.inputs[0])
        if stored is not None and (stored.dtype == np.int32 or _of_norms(node)):  # case 2
            made = dequantised(stored, node)
            _replace(graph, node, initializer(graph, str(node.outputs[0].name), made))
        else:
            _shift(node, graph)
    for node in graph:
        if node.op_type in (QUANTISE, DEQUANTISE):
            _scalar_scale(node, graph)
    join_scalings(graph)
    drop_unused(graph)


def _scalar_scale(node: ir.Node, graph: ir.Graph) -> None:
    """Do case 4."""
    for index in range(1, len(node.inputs)):
        value = node.inputs[index]
        numbers = constant(value)
        if value is not None and numbers is not None and numbers.shape == (1,):
            scalar = initializer(graph, f"{value.name}.scalar", numbers.reshape(()))
            node.replace_input_with(index, scalar)


def _of_norms(node: ir.Node) -> bool:
    """Whether only BatchNorms read the output of a node."""
    users = [user.op_type for user, _ in node.outputs[0].uses()]
    return bool(users) and set(users) == {"BatchNormalization"}


def without_pairs(model: ir.Model) -> ir.Model:
    """A copy that rounds no activation; the weights stay what their codes say.

    Rounding jumps where a value lies between two codes, so that two equal graphs may differ by a
    step. The copy has no such jumps.
    """
    copy = ir.from_proto(ir.to_proto(model))
    for node in [one for one in copy.graph if one.op_type == DEQUANTISE]:
        source = node.inputs[0]
        maker = None if source is None else source.producer()
        if maker is None or maker.op_type != QUANTISE or maker.inputs[0] is None:
            continue
        if constant(maker.inputs[0]) is not None:
            continue
        output = node.outputs[0]
        if output.is_graph_output():
            node.replace_input_with(0, maker.inputs[0])
            node.op_type = "Identity"
            node.resize_inputs(1)
            node.attributes.clear()
        else:
            ir.convenience.replace_all_uses_with(output, maker.inputs[0])
            copy.graph.remove(node, safe=True)
    RemoveUnusedNodesPass()(copy)
    return copy


def _shift(node: ir.Node, graph: ir.Graph) -> None:
    """Do case 5 for a QuantizeLinear or a DequantizeLinear.

    Raises:
        ExportError: the zero point is neither 0 nor the middle of uint8.
    """
    found = zero_point(node)
    zero = np.zeros(1) if found is None else found
    # The type of a zero point is that of the codes, also where the node before was changed already.
    dtype = stored_type(node) if found is None else ir.DataType.from_numpy(found.dtype)
    source = node.inputs[0]
    name = node.name if source is None else source.name
    if dtype != ir.DataType.UINT8:
        if np.any(zero.astype(np.float32)):
            raise ExportError(_asymmetric(name, zero), hint=HINT)
        return
    if not np.all(zero == _MIDDLE):
        raise ExportError(_asymmetric(name, zero), hint=HINT)
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, initializer(graph, f"{node.name}.zero", zero.astype(np.int8) * 0))
    codes = constant(source) if node.op_type == DEQUANTISE else None
    if codes is not None:
        moved = (codes.astype(np.int16) - _MIDDLE).astype(np.int8)
        node.replace_input_with(0, initializer(graph, f"{name}.int8", moved))
    if node.op_type == QUANTISE:
        node.outputs[0].type = ir.TensorType(ir.DataType.INT8)
        node.attributes.pop("output_dtype", None)


def _asymmetric(name: object, zero: Array) -> str:
    return (
        f"The tensor {name!r} is quantised with the zero point {zero.reshape(-1)[0]:g}, and "
        "TensorRT has only 0."
    )


def _replace(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Let all readers of a node's output read another value, and remove the node."""
    ir.convenience.replace_all_uses_with(node.outputs[0], value, replace_graph_outputs=True)
    graph.remove(node, safe=True)
