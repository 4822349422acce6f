"""What folding returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from .plan import Folded, Left
from .proof.verify import Verification


@dataclass(frozen=True, eq=False)
class FoldResult:
    """A folded model, and what became of each BatchNorm.

    Attributes:
        model: the folded copy; same classes, no foldable BatchNorm.
        folded: the BatchNorms that are gone, by name, rule and the layers they went into; also
            constant scales and parallel branches that went with them (see ``kind``).
        left: the BatchNorms that stay, each with its reason.
        parameters_before, parameters_after: numbers of learnable scalars.
        batchnorms_before, batchnorms_after: numbers of BatchNorm modules.
        verification: how the result was proved to be the same function.
        notes: sentences for the user.
    """

    model: nn.Module
    folded: tuple[Folded, ...]
    left: tuple[Left, ...]
    parameters_before: int
    parameters_after: int
    batchnorms_before: int
    batchnorms_after: int
    verification: Verification
    notes: tuple[str, ...] = ()


def count_parameters(model: nn.Module) -> int:
    """The number of scalars in all parameters of ``model``, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
