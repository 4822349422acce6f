"""Splits an addition off an operator that multiplies and adds, as an operator of its own.

``addmm(y, a, b)`` is ``beta * y + alpha * (a @ b)``, and a layer may add a bias that the forward
computes. Where ``y``, or the bias, cannot be stored as the bias of the layer, the graph then holds
the layer without a bias and a sum.
"""

from __future__ import annotations

import torch

from deployfold.folding.operators.table import record_of

from .constants import number_of
from .graph import Graph, Op, Value

SUMS = {
    "addmm": ("mat1", "mat2"),
    "baddbmm": ("batch1", "batch2"),
    "addbmm": ("batch1", "batch2"),
    "addmv": ("mat", "vec"),
}
"""Operators that add a tensor to a product, with the names of its two factors."""


def addend(op: Op) -> Value | None:
    """The tensor that a product or layer adds to its result; None without one."""
    if op.name.rstrip("_") not in SUMS:
        bias: Value | None = op.arguments.get("bias")
        return bias
    return op["self"] if op["beta"] else None  # torch ignores a tensor times zero


def split_computed_bias(graph: Graph, op: Op) -> None:
    """Split off the bias of a convolution or linear layer if the forward computes the bias."""
    bias, record = op.arguments.get("bias"), record_of(op)
    if record.layer not in ("linear", "conv", "conv_transpose") or not isinstance(bias, Value):
        return
    zero = number_of(bias) if bias.producer is not None else None
    if bias.name is not None or (zero is not None and not bool(zero.any())):
        return
    position = graph.remove(op)
    product, whole = Value(op.output.shape, op.output.dtype, producer=op), op.output
    op.arguments = {**op.arguments, "bias": None}
    op.inputs = [value for value in op.inputs if value is not bias]
    op.outputs = [product]
    graph.insert(op, position)
    if record.spatial_axes:
        shape = (-1, *[1] * record.spatial_axes)
        bias = _derived(
            graph, op, position, "reshape", torch.ops.aten.reshape.default,
            {"self": bias, "shape": list(shape)}, Value((bias.shape[0], *shape[1:]), bias.dtype),
        )  # fmt: skip
    insert_sum(graph, op, position, product, bias, whole)


def insert_sum(
    graph: Graph, op: Op, position: int, product: Value, other: Value, result: Value
) -> None:
    """Insert ``result = product + beta * other`` behind the layer that ``op`` has become."""
    aten, beta = torch.ops.aten, op.arguments.get("beta", 1)
    written = "_" if op.name.endswith("_") else ""
    if beta != 1:
        arguments = {"self": other, "other": beta}
        scaled = Value(other.shape, other.dtype)
        other = _derived(graph, op, position, f"mul{written}", aten.mul.Tensor, arguments, scaled)
    arguments = {"self": other, "other": product, "alpha": 1}
    _derived(graph, op, position, f"add{written}", aten.add.Tensor, arguments, result)


def _derived(
    graph: Graph, op: Op, position: int, name: str, function: torch._ops.OpOverload,
    arguments: dict[str, object], result: Value,
) -> Value:  # fmt: skip
    """Insert an operator that computes ``result``, as a part of the recorded operator ``op``."""
    inputs = [item for item in arguments.values() if isinstance(item, Value)]
    part = Op(name, function, arguments, op.call, op.occurrence, inputs, [result])
    result.producer = part
    result.constant = all(value.constant for value in inputs)
    graph.insert(part, position)
    return result
