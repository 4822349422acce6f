"""What a fold rule is: one way to make BatchNorms go, tried on a whole traced model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from deployfold.folding.algebra import Affine
from deployfold.folding.graph.affine_layer import AffineLayer
from deployfold.folding.graph.graph import Op
from deployfold.folding.operators.partial import NotSeparable

if TYPE_CHECKING:
    from .context import Context


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


class Rule(Protocol):
    """One way to fold. A rule is one file of this folder and one entry of the registry."""

    name: str
    """How the report names it, such as ``"into the producer"``."""

    def apply(self, context: Context) -> bool:
        """Fold everything that the rule allows; whether that was anything.

        A rule folds with :meth:`.Context.fold` and says why not with :meth:`.Context.refuse`.
        """


class RuleForOne(ABC):
    """A rule that looks at one affine layer after the other."""

    name: str

    @abstractmethod
    def propose(self, affine_layer: AffineLayer, context: Context) -> list[Request]:
        """The changes to other layers that let ``affine_layer`` go.

        Raises:
            CannotFold: the rule does not apply.
        """

    def apply(self, context: Context) -> bool:
        """Fold every affine layer that the rule allows."""
        folded = False
        for affine_layer in list(context.affine_layers):
            if affine_layer.reason is not None:
                continue
            try:
                requests = self.propose(affine_layer, context)
            except (CannotFold, NotSeparable) as refusal:
                context.refuse(affine_layer, self.name, str(refusal))
            except Exception as error:
                context.report_fault(affine_layer, self.name, error)
            else:
                context.fold(affine_layer, requests, self.name)
                folded = True
        return folded
