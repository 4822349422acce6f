"""The name of the tail that belongs to the head of a model."""

from __future__ import annotations

_HEAD = ".head."


def tail_name(file: str) -> str | None:
    """``NAME.tail.onnx`` for ``NAME.head.fp16.sm_89.engine``; ``None`` for a whole model."""
    name, separator, _ = file.partition(_HEAD)
    return f"{name}.tail.onnx" if separator else None
