"""Finishing a build on the device it is for: the kit that a build leaves, and what uses it there.

Nothing here imports torch, onnx or ONNX Runtime, but for :func:`write_finish_kit`, which runs in a
build and lets onnx check the files.
"""

from __future__ import annotations

from .device import finish
from .kit import FINISH_JSON, Wanted, read_kit, write_finish_kit
from .reference import REFERENCE_NPZ

__all__ = ["FINISH_JSON", "REFERENCE_NPZ", "Wanted", "finish", "read_kit", "write_finish_kit"]
