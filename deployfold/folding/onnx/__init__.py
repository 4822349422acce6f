"""Folding the BatchNormalization nodes that are left in an ONNX graph."""

from __future__ import annotations

from .fold import GraphFold, fold_graph

__all__ = ["GraphFold", "fold_graph"]
