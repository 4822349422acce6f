"""Which tensors share memory, and who would notice a write to it.

A BatchNorm makes a tensor of its own; once it is gone, what worked on that in place works on the
BatchNorm's input.
"""

from __future__ import annotations

from deployfold.folding.operators.table import may_be_view

from .graph import Call, Op, Value


def read_by_others(value: Value) -> bool:
    """Whether more than one operator reads ``value``, or a tensor that it may be a view of."""
    while len(value.consumers) < 2:
        op = value.producer
        if op is None or not may_be_view(op):
            return False
        value = op.inputs[0]
    return True


def overwriting(value: Value, call: Call) -> list[Op]:
    """The operators outside ``call`` that work in place on ``value``, or on a view of it."""
    found: list[Op] = []
    for op in value.consumers:
        if op.name.endswith("_") and op.arguments.get("self") is value:
            found += [] if op.call.within(call) else [op]
        if may_be_view(op):
            found += [other for output in op.outputs for other in overwriting(output, call)]
    return found
