"""Folds the BatchNormalization nodes of an ONNX graph, and proves each fold."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from deployfold.folding.plan import Folded, Left
from deployfold.folding.proof.verify import TOLERANCE
from deployfold.util.onnx_values import drop_unused

from .change import apply, label
from .proof import relative_difference
from .rules import find_change

BATCH_NORM = "BatchNormalization"
_OLDEST = 9
_TOO_OLD = "operators of opsets before 9 have other meanings; export it again with opset 20"


@dataclass(frozen=True)
class GraphFold:
    """The result of folding an ONNX graph: the folded nodes, the remaining nodes, and the proof.

    Attributes:
        folded, left: as in :class:`~deployfold.folding.FoldResult`.
        float64_relative: the largest relative difference, in float64, between a fold and the nodes
            that it replaced; 0 if no node was folded.
    """

    folded: tuple[Folded, ...]
    left: tuple[Left, ...]
    float64_relative: float


def fold_graph(model: ir.Model) -> GraphFold:
    """Fold the BatchNormalization nodes of ``model`` in place, including those in control flow.

    :func:`.proof.relative_difference` checks each fold before the graph changes. A node stays if
    its fold differs by more than ``TOLERANCE``, and its reason states the difference.

    Args:
        model: a model with inlined functions, constants as initialisers and inferred shapes.
    """
    folded: list[Folded] = []
    left: list[Left] = []
    largest = 0.0
    norms = [
        (graph, node)
        for graph in model.graphs()
        for node in graph
        if node.op_type == BATCH_NORM and node.domain in ("", "ai.onnx")
    ]
    for graph, norm in norms:
        change = find_change(norm) if model.opset_imports[""] >= _OLDEST else _TOO_OLD
        if isinstance(change, str):
            left.append(Left(label(norm), change))
            continue
        difference = relative_difference(change)
        if not difference <= TOLERANCE:
            reason = f"folded it differs by {difference:.1e} (relative, in float64)"
            left.append(Left(label(norm), reason))
            continue
        largest = max(largest, difference)
        folded.append(Folded(label(norm), change.rule, change.into))
        apply(change, graph)
    for graph in model.graphs():
        drop_unused(graph)
    return GraphFold(tuple(folded), tuple(left), largest)
