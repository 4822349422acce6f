"""The outcome of folding in a report."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from .fields import Count, Frozen, Number

HEADERS = ("BatchNorm", "into", "rule, or why it was left")
"""The columns of a table of BatchNorms."""


class FoldedNorm(Frozen):
    """A BatchNorm that folding removed, by one rule, ``into`` one module.

    ``kind`` is ``batchnorm``, or ``scale`` or ``branch`` for a constant scale or a parallel branch,
    or the class of a norm whose affine parameters went while it stayed.
    """

    name: str
    rule: str
    into: str
    kind: Literal[
        "batchnorm", "scale", "branch", "LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm"
    ] = "batchnorm"


class LeftNorm(Frozen):
    """A BatchNorm that stayed, and why."""

    name: str
    reason: str


class Verification(Frozen):
    """Folded against original, on that many inputs; ``None``: float64 could not run, see note."""

    float64_relative_difference: Number | None
    native_max_abs_diff: Number
    inputs: Count
    note: str | None = None


class FoldSummary(Frozen):
    """The outcome of folding. ``verification`` is ``None`` if nothing was folded.

    ``reestimation`` says how ``--reestimate-bn`` changed the model before folding.
    """

    batchnorm_before: Count
    parameters_before: Count
    parameters_after: Count
    folded: tuple[FoldedNorm, ...] = ()
    left: tuple[LeftNorm, ...] = ()
    verification: Verification | None = None
    reestimation: str | None = None

    @property
    def norm_affines(self) -> dict[str, int]:
        """How many norms of each class lost their affine parameters."""
        other = ("batchnorm", "scale", "branch")
        return dict(Counter(one.kind for one in self.folded if one.kind not in other))

    @property
    def outcome(self) -> str:
        """``52 of 53 BatchNorm``, and what else went: ``, 7 scales, 2 branches``."""
        kinds = Counter(one.kind for one in self.folded)
        extra = ((kinds["scale"], "scale", "scales"), (kinds["branch"], "branch", "branches"))
        return ", ".join(
            [f"{kinds['batchnorm']} of {self.batchnorm_before} BatchNorm"]
            + [f"{count} {one if count == 1 else many}" for count, one, many in extra if count]
        )
