"""A package that adds one fold rule to deployfold."""

from __future__ import annotations

from deployfold.folding.graph.affine_layer import AffineLayer
from deployfold.folding.graph.layers import is_layer
from deployfold.folding.rules.context import Context
from deployfold.folding.rules.request import CannotFold, Request
from deployfold.folding.rules.rule import RuleForOne


class BehindAbs(RuleForOne):
    """``scale * abs(layer(x))`` becomes ``abs(layer'(x))`` for positive scales without a shift."""

    name = "through the absolute value"

    def propose(self, affine_layer: AffineLayer, context: Context) -> list[Request]:
        affine = affine_layer.affine
        assert affine is not None
        requests = []
        for site in affine_layer.sites:
            op = site.inputs[0].producer
            layer = None if op is None or op.name != "abs" else op.inputs[0].producer
            if layer is None or not is_layer(layer):
                raise CannotFold("no layer with an absolute value stands before it")
            if bool((affine.scale <= 0).any()) or affine.has_shift:
                raise CannotFold("an absolute value carries positive scales alone")
            if layer.output.consumers != [op] or op.output.consumers != [site]:
                raise CannotFold("others read the layer's output")
            requests.append(Request(layer, affine, after=True))
        return context.agree(requests)
