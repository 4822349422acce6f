"""A package that adds one fold rule to deployfold."""

from __future__ import annotations

from deployfold.folding.algebra import Affine
from deployfold.folding.graph.affine_layer import AffineLayer
from deployfold.folding.graph.layers import is_layer
from deployfold.folding.rules.context import Context
from deployfold.folding.rules.request import CannotFold, Request
from deployfold.folding.rules.rule import RuleForOne


class BehindSquare(RuleForOne):
    """``scale * layer(x)**2`` becomes ``layer'(x)**2`` for positive scales without a shift."""

    name = "through the square"

    def propose(self, affine_layer: AffineLayer, context: Context) -> list[Request]:
        affine = affine_layer.affine
        assert affine is not None
        requests = []
        for site in affine_layer.sites:
            op = site.inputs[0].producer
            layer = None if op is None or op.name != "square" else op.inputs[0].producer
            if layer is None or not is_layer(layer):
                raise CannotFold("no layer with a square stands before it")
            if bool((affine.scale <= 0).any()) or affine.has_shift:
                raise CannotFold("a square carries positive scales alone")
            if layer.output.consumers != [op] or op.output.consumers != [site]:
                raise CannotFold("others read the layer's output")
            requests.append(Request(layer, Affine(affine.scale.sqrt(), affine.shift), after=True))
        return context.agree(requests)
