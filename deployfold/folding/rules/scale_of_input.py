"""Folding the scale of an input normalisation whose shift has to stay."""

from __future__ import annotations

from deployfold.folding.graph.affine_layer import AffineLayer
from deployfold.folding.operators.change import Change
from deployfold.folding.plan import Bypass, KeepShift, Replacement

from .context import Context
from .into_consumers import absorb
from .request import CannotFold, Request
from .rule import RuleForOne

_CASTS = frozenset({"_to_copy", "to"})


class ScaleOfInput(RuleForOne):
    """``layer(scale * x + shift)`` becomes ``layer'(x + shift / scale)``.

    Where the first convolution pads with zeros, one addition of ``(x / 255 - mean) / std`` stays.
    The rule applies where

    1. the affine layer reads an input of the model, possibly behind a change of dtype;
    2. the layer's scale folds into its readers, as :class:`.IntoConsumers` says;
    3. no scale is zero, and one operator or one module computes the addition.
    """

    name = "its scale into the consumer; the shift stays"

    def concerns(self, affine_layer: AffineLayer) -> bool:
        """Exclude BatchNorms, because the remaining addition would cost as much as one."""
        return not affine_layer.is_batchnorm

    def propose(self, affine_layer: AffineLayer, context: Context) -> list[Request]:
        """Return the requests to the consumers; see :class:`.RuleForOne`."""
        affine = affine_layer.affine
        for site in affine_layer.sites:
            value = site.inputs[0]
            while value.producer is not None and value.producer.name in _CASTS:
                value = value.producer.inputs[0]
            if value not in context.graph.inputs:
                raise CannotFold("it does not normalise an input of the model")
        if not affine.has_shift or not bool((affine.scale != 0).all()):
            raise CannotFold("a scale of zero cannot be inverted")
        first = affine_layer.removals[0]
        if isinstance(first, Replacement) and first.keep:
            raise CannotFold("its class does more than normalise")
        if not isinstance(first, (Bypass, Replacement)):
            raise CannotFold("the shift cannot stay without the scale")
        requests: list[Request] = []
        for site in affine_layer.sites:
            result = site.output
            axis = affine_layer.channel_axis(result)
            change = Change.of_axis(result, axis, affine.without_shift())
            requests += absorb(context, result, change, set())
        agreed = context.agree(requests)
        rank, axis = len(result.shape), affine_layer.channel_axis(result)
        shift = (affine.shift / affine.scale).reshape([-1] + [1] * (rank - axis - 1))
        affine_layer.removals = (KeepShift(first, shift), *affine_layer.removals[1:])
        return agreed
