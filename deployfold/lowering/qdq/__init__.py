"""Quantised layers by Q/DQ nodes: calibrated, corrected, and held to an accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deployfold.config.precision import Precision

from .artifact import LayerReport, QdqArtifact
from .lowering import lower_qdq

__all__ = ["LayerReport", "QdqArtifact", "lower_int8", "lower_qdq"]


def lower_int8(source: Path, path: Path, **options: Any) -> QdqArtifact:
    """:func:`lower_qdq` to INT8."""
    return lower_qdq(source, path, precision=Precision.INT8, **options)
