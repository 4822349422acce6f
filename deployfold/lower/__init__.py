"""Writes a precision into an ONNX: the graph that TensorRT then builds strongly typed."""

from __future__ import annotations

from .fp16 import KeptNode, LoweredArtifact, lower_fp16

__all__ = ["KeptNode", "LoweredArtifact", "lower_fp16"]
