"""Writes a precision into an ONNX: the graph that TensorRT then builds strongly typed."""

from __future__ import annotations

from .bf16.lower import lower_bf16
from .fp16.lower import lower_fp16
from .lowered import KeptNode, LoweredArtifact
from .qdq import LayerReport, QdqArtifact, lower_int8, lower_qdq

__all__ = [
    "KeptNode",
    "LayerReport",
    "LoweredArtifact",
    "QdqArtifact",
    "lower_bf16",
    "lower_fp16",
    "lower_int8",
    "lower_qdq",
]
