"""The result of folding a model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from .plan import Folded, Left
from .proof.verify import Verification


@dataclass(frozen=True, eq=False)
class FoldResult:
    """A folded model, and the outcome for each BatchNorm.

    Attributes:
        model: the folded copy, made of the same classes without any foldable BatchNorm.
        folded: the folded BatchNorms, each with name, rule and the layers that absorbed it; also
            constant scales and parallel branches that were folded (see ``kind``).
        left: the BatchNorms that stay, each with its reason.
        parameters_before, parameters_after: numbers of learnable scalars.
        batchnorms_before, batchnorms_after: numbers of BatchNorm modules.
        verification: the proof that the result computes the same function.
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
    """Count the scalars in all parameters of ``model``; shared parameters count once."""
    return sum(parameter.numel() for parameter in model.parameters())
