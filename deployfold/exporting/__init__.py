"""Writes the model as TorchScript, ``.pt2`` and ONNX, and compares each file with the module."""

from __future__ import annotations

from .onnx import OnnxArtifact, export_onnx
from .program import ProgramArtifact, export_program
from .repeatable import check_repeatable
from .torchscript import TorchScriptArtifact, export_torchscript

__all__ = [
    "OnnxArtifact",
    "ProgramArtifact",
    "TorchScriptArtifact",
    "check_repeatable",
    "export_onnx",
    "export_program",
    "export_torchscript",
]
