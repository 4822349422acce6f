"""The numbers of constant tensors: stored in the model, or recomputed from stored tensors."""

from __future__ import annotations

from torch import Tensor

from .graph import Value


def number_of(value: Value) -> Tensor | None:
    """The numbers of a constant tensor, on the CPU; None if they are unknown before a run.

    Stored floating-point numbers are converted to float64. The numbers are unknown if the forward
    writes to the tensor or draws it at random.
    """
    if value.number is not None:
        stored = value.number.cpu()
        return stored.double() if stored.is_floating_point() else stored
    op = value.producer
    if op is None or not value.constant or not op.repeatable or len(op.outputs) != 1:
        return None
    known: dict[Value, Tensor] = {}
    for source in op.inputs:
        number = number_of(source)
        if number is None:
            return None
        known[source] = number
    try:
        found: Tensor = op.rerun(known)
    except (RuntimeError, KeyError):  # the operator requires another dtype or device
        return None
    return found
