"""A package that adds one fold rule to deployfold."""

from __future__ import annotations

from deployfold.folding.graph.affine_layer import AffineLayer
from deployfold.folding.rules.context import Context
from deployfold.folding.rules.rule import CannotFold, Request, RuleForOne


class NeutralNorms(RuleForOne):
    """A BatchNorm that computes ``1 * x + 0`` goes, wherever it stands."""

    name = "neutral"

    def propose(self, affine_layer: AffineLayer, context: Context) -> list[Request]:
        affine = affine_layer.affine
        assert affine is not None
        if bool((affine.scale != 1).any()) or affine.has_shift:
            raise CannotFold("it changes its input")
        return []
