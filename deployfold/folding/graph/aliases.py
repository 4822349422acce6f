"""Which tensors share memory, and who would notice a write to it.

A BatchNorm makes a tensor of its own; once it is gone, what worked on that in place works on the
BatchNorm's input.
"""

from __future__ import annotations

from deployfold.folding.operators.table import may_be_view

from .graph import Call, Value


def read_by_others(value: Value) -> bool:
    """Whether more than one operator reads ``value``, or a tensor that it may be a view of."""
    while len(value.consumers) < 2:
        op = value.producer
        if op is None or not may_be_view(op):
            return False
        value = op.inputs[0]
    return True


def overwritten(value: Value, call: Call) -> bool:
    """Whether an operator outside ``call`` works in place on ``value``, or on a view of it."""
    return any(
        (op.name.endswith("_") and op.arguments.get("self") is value and not op.call.within(call))
        or (may_be_view(op) and any(overwritten(output, call) for output in op.outputs))
        for op in value.consumers
    )
