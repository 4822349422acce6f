"""Reads single QuantizeLinear and DequantizeLinear nodes of a graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from deployfold.errors import ExportError
from deployfold.util.arrays import Array
from deployfold.util.onnx_values import constant

QUANTISE, DEQUANTISE = "QuantizeLinear", "DequantizeLinear"
HINT = "Quantise the float model again as Q/DQ nodes with symmetric int8 activations and weights."


def zero_point(node: ir.Node) -> Array | None:
    """The constant zero point of a node; ``None`` for a node without one.

    Raises:
        ExportError: the graph computes it.
    """
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return None
    zero = constant(value)
    if zero is None:
        raise ExportError(f"The zero point of {node.name!r} is computed by the graph.", hint=HINT)
    return zero


def quantised(values: Array, node: ir.Node) -> Array:
    """The codes that a QuantizeLinear gives for constant values."""
    dtype = stored_type(node)
    ratio = values.astype(np.float32) / along(scales(node), values, node)
    if dtype is not None and dtype not in (ir.DataType.INT8, ir.DataType.UINT8):
        return np.asarray(ratio.astype(dtype.numpy()))
    zero = zero_point(node)
    offset = np.zeros(()) if zero is None else along(zero, values, node)
    limits = np.iinfo(np.uint8 if dtype == ir.DataType.UINT8 else np.int8)
    codes = np.clip(np.rint(ratio) + offset.astype(np.float32), limits.min, limits.max)
    return np.asarray(codes.astype(limits.dtype))


def dequantised(codes: Array, node: ir.Node) -> Array:
    """The output of a DequantizeLinear for constant codes, in float32."""
    zero = zero_point(node)
    plain = codes.astype(np.float64 if codes.dtype == np.int32 else np.float32)
    if zero is not None:
        plain = plain - along(zero, codes, node).astype(plain.dtype)
    return np.asarray(plain * along(scales(node), codes, node), np.float32)


def along(numbers: Array, values: Array, node: ir.Node) -> Array:
    """One number, or one for each channel of the node's axis, in a shape that broadcasts."""
    if numbers.size == 1:
        return np.asarray(numbers.reshape(()))
    shape = [1] * values.ndim
    shape[node.attributes.get_int("axis", 1)] = numbers.size
    return np.asarray(numbers.reshape(shape))


def scales(node: ir.Node) -> Array:
    """The scale of a node, or its scales by channel, as a vector in float32.

    Raises:
        ExportError: the graph computes them.
    """
    found = constant(node.inputs[1])
    if found is None:
        raise ExportError(f"The scale of {node.name!r} is computed by the graph.", hint=HINT)
    return np.asarray(found.reshape(-1), np.float32)


def stored_type(node: ir.Node) -> ir.DataType | None:
    """The type of the codes that a QuantizeLinear makes or a DequantizeLinear reads."""
    if node.op_type == DEQUANTISE:
        codes = node.inputs[0]
        return None if codes is None else codes.dtype
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is not None:
        return zero.dtype
    named = node.attributes.get_int("output_dtype", 0)
    return ir.DataType(named) if named else ir.DataType.UINT8  # the default of ONNX
