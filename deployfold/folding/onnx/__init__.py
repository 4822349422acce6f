"""Folds the BatchNormalization nodes of an ONNX graph, for models that are given as ONNX files."""

from __future__ import annotations

from .fold import GraphFold, fold_graph

__all__ = ["GraphFold", "fold_graph"]
