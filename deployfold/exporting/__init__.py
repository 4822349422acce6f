"""Export formats: one module per format, each with a record.

An exporter writes the model and compares the file with the eager module. To add a format, write a
module with an :class:`.exporter.Exporter` and name the record in :data:`EXPORTERS`.
"""

from __future__ import annotations

from .aot_inductor import AOT_INDUCTOR
from .exporter import ExportedFile, Exporter, ExportJob
from .onnx import ONNX, OnnxArtifact, export_onnx
from .program import PROGRAM, export_program
from .repeatable import check_repeatable, in_evaluation_mode
from .torchscript import TORCHSCRIPT, TorchScriptArtifact, export_torchscript

EXPORTERS: tuple[Exporter, ...] = (TORCHSCRIPT, PROGRAM, AOT_INDUCTOR, ONNX)
"""The formats, in the order of the table."""

__all__ = [
    "EXPORTERS",
    "ExportJob",
    "ExportedFile",
    "Exporter",
    "OnnxArtifact",
    "TorchScriptArtifact",
    "check_repeatable",
    "export_onnx",
    "export_program",
    "export_torchscript",
    "in_evaluation_mode",
]
