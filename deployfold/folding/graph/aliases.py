"""Checks for shared memory: the readers of a tensor, and the operators that overwrite the tensor.

A BatchNorm returns a new tensor. Once the BatchNorm is folded, the in-place operators that followed
the BatchNorm overwrite its input instead.
"""

from __future__ import annotations

from deployfold.folding.operators.table import may_be_view

from .graph import Call, Op, Value


def read_by_others(value: Value) -> bool:
    """Whether several operators read ``value`` or a tensor that may share its memory upstream."""
    while len(value.consumers) < 2:
        op = value.producer
        if op is None or not may_be_view(op):
            return False
        value = op.inputs[0]
    return True


def overwriting(value: Value, call: Call) -> list[Op]:
    """The operators outside ``call`` that overwrite ``value`` or a view of ``value`` in place."""
    found: list[Op] = []
    for op in value.consumers:
        if op.name.endswith("_") and op.arguments.get("self") is value:
            found += [] if op.call.within(call) else [op]
        if may_be_view(op):
            found += [other for output in op.outputs for other in overwriting(output, call)]
    return found
