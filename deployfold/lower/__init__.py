"""Writes a precision into an ONNX: the graph that TensorRT then builds strongly typed."""

from __future__ import annotations

from .fp16 import lower_fp16
from .lowered import KeptNode, LoweredArtifact
from .qdq import Int8Artifact, LayerReport, lower_int8

__all__ = [
    "Int8Artifact",
    "KeptNode",
    "LayerReport",
    "LoweredArtifact",
    "lower_fp16",
    "lower_int8",
]
