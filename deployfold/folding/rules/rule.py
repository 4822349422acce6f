"""The interface of a fold rule: one way to fold BatchNorms, tried on a whole traced model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from deployfold.folding.graph.affine_layer import AffineLayer
from deployfold.folding.operators.partial import NotSeparable

from .context import Context
from .request import CannotFold, Request


class Rule(Protocol):
    """One way to fold. Each rule has one file in this folder and one entry in ``RULES``."""

    name: str
    """The name of the rule in the report, such as ``"into the producer"``."""

    def apply(self, context: Context) -> bool:
        """Fold everything that the rule allows; return whether anything was folded.

        A rule folds with :meth:`.Context.fold` and refuses, with a reason, with
        :meth:`.Context.refuse`.
        """


class RuleForOne(ABC):
    """A rule that decides on one affine layer at a time."""

    name: str

    @abstractmethod
    def propose(self, affine_layer: AffineLayer, context: Context) -> list[Request]:
        """Return the changes to other layers that let ``affine_layer`` go.

        Raises:
            CannotFold: the rule does not apply.
        """

    def concerns(self, affine_layer: AffineLayer) -> bool:
        """Whether the rule handles such a layer; the rule gives no reason for other layers."""
        return True

    def apply(self, context: Context) -> bool:
        """Fold every affine layer that the rule allows; return whether any was folded."""
        folded = False
        for affine_layer in list(context.affine_layers):
            if affine_layer.reason is not None or not self.concerns(affine_layer):
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
