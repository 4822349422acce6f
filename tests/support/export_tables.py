"""Caches the table of operators, which torch's ONNX exporter builds again at each export.

Reading the sources of 500 functions takes a second of processor time, and the tests export some
hundred models. The table is the same each time, and the exporter only reads it.
"""

from __future__ import annotations

from functools import cache
from typing import Any


def keep_export_tables() -> None:
    """Have :func:`torch.onnx.export` build its table once in this process."""
    from torch.onnx._internal.exporter import _registration

    registry: Any = _registration.ONNXRegistry
    build = cache(registry.from_torchlib.__func__)
    registry.from_torchlib = classmethod(lambda cls, *args, **kwargs: build(cls, *args, **kwargs))
