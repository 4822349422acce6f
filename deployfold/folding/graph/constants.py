"""The numbers of constants: stored in the model, or computed from such as the forward does."""

from __future__ import annotations

from torch import Tensor

from .graph import Value


def number_of(value: Value) -> Tensor | None:
    """What a constant holds, on the CPU and, if stored, in float64; None if that is not known.

    A tensor that the forward writes to, or makes of random numbers, is not known.
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
    except (RuntimeError, KeyError):  # it wants another dtype or device
        return None
    return found
