"""What a rule answers: the changes that it asks of layers, or the reason why it cannot fold."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deployfold.folding.algebra import Affine
from deployfold.folding.graph.graph import Op


class CannotFold(Exception):
    """A rule does not apply; the text says why, and goes into the report."""

    def __init__(self, reason: str) -> None:
        if not reason:
            raise ValueError("a refusal needs a reason")
        super().__init__(reason)


@dataclass(frozen=True, eq=False)
class Request:
    """Let the linear layer or affine layer that runs at ``op`` take up ``affine``.

    Attributes:
        after: the map follows the layer (it scales rows); else it precedes it (columns).
        skip: ``(out,)`` multiple of the identity to add to the layer's weight, which makes up for
            an unscaled copy of the layer's input that is added to its output.
    """

    op: Op
    affine: Affine
    after: bool
    skip: Tensor | None = None

    def same_as(self, other: Request) -> bool:
        """Whether both ask the same of a layer that runs at several places."""
        if self.after != other.after or (self.skip is None) != (other.skip is None):
            return False
        return self.affine.equals(other.affine) and (
            self.skip is None or other.skip is None or torch.equal(self.skip, other.skip)
        )
