"""Folds an ONNX graph, for models that are given as ONNX files.

BatchNormalization nodes, and the normalisation of raw frames.
"""

from __future__ import annotations

from .fold import GraphFold, fold_graph
from .frames import absorb, insert

__all__ = ["GraphFold", "absorb", "fold_graph", "insert"]
