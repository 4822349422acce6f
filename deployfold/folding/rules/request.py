"""The answers of a fold rule: requests to change layers, or the reason for a refusal."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deployfold.folding.algebra import Affine
from deployfold.folding.graph.graph import Op


class CannotFold(Exception):
    """A rule does not apply; the text is the reason that the report prints."""

    def __init__(self, reason: str) -> None:
        if not reason:
            raise ValueError("a refusal needs a reason")
        super().__init__(reason)


@dataclass(frozen=True, eq=False)
class Request:
    """A request that the linear layer or affine layer at ``op`` absorb the map ``affine``.

    Attributes:
        op: one place where the layer runs.
        affine: the map to absorb.
        after: the map follows the layer and scales its rows; otherwise the map precedes the layer
            and scales its columns.
        skip: ``(out,)`` multiple of the identity to add to the layer's weight, to correct for an
            unscaled copy of the layer's input that is added to the layer's output.
    """

    op: Op
    affine: Affine
    after: bool
    skip: Tensor | None = None

    def scales_as(self, other: Request | None) -> bool:
        """Whether both requests change the weight alike; None changes no weight."""
        if other is None:
            return self.skip is None and bool((self.affine.scale == 1).all())
        return Request(self.op, self.affine.without_shift(), self.after, self.skip).same_as(
            Request(other.op, other.affine.without_shift(), other.after, other.skip)
        )

    def same_as(self, other: Request) -> bool:
        """Whether both requests ask the same change of a layer that runs at several places."""
        if self.after != other.after or (self.skip is None) != (other.skip is None):
            return False
        return self.affine.equals(other.affine) and (
            self.skip is None or other.skip is None or torch.equal(self.skip, other.skip)
        )
