"""INT8 by Q/DQ nodes: calibrated, corrected, and held to the accuracy that was asked for."""

from __future__ import annotations

from .lowering import Int8Artifact, LayerReport, lower_int8

__all__ = ["Int8Artifact", "LayerReport", "lower_int8"]
