"""The names of the files that belong to the head of a model."""

from __future__ import annotations

_HEAD = ".head."


PASSED = "__head"
"""Ends the name of an output of the head that the tail passes through as the model's output."""


def tail_name(file: str) -> str | None:
    """``NAME.tail.onnx`` for ``NAME.head.fp16.sm_89.engine``; ``None`` for a whole model."""
    name, separator, _ = file.partition(_HEAD)
    return f"{name}.tail.onnx" if separator else None


def head_reference(file: str) -> str | None:
    """``NAME.head.reference.npz``: what the fp32 head gives for the reference inputs.

    A lowered head is compared with that, because what the tail makes of it may have another shape,
    as the number of boxes. ``None`` for a whole model.
    """
    name, separator, _ = file.partition(_HEAD)
    return f"{name}{_HEAD}reference.npz" if separator else None
