"""Finishes a build on its device: the kit that a build writes, and the command that uses it.

A device may lack torch, onnx and ONNX Runtime. Only :func:`write_finish_kit`, which runs in a
build, imports onnx.
"""

from __future__ import annotations

from .device import finish
from .kit import FINISH_JSON, Wanted, read_kit, write_finish_kit
from .reference import REFERENCE_NPZ

__all__ = ["FINISH_JSON", "REFERENCE_NPZ", "Wanted", "finish", "read_kit", "write_finish_kit"]
