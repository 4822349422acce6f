"""The plan of a fold, as data: names and float64 vectors, and no tensor of the model.

The same plan is applied to the copy the user gets and to the float64 copy that proves it right.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from deployfold.folding.algebra import Affine
from deployfold.folding.graph.layers import Layer


@dataclass(frozen=True, eq=False)
class Term:
    """One summand of a layer's new weight: ``rows * (source's weight) * columns``.

    Attributes:
        source: the layer whose weight it is, or ``None`` for the identity.
        rows: ``(out,)`` factor of every output channel.
        columns: the affine map in front of the weight, over its input channels.
    """

    source: Layer | None
    rows: Tensor
    columns: Affine | None = None


@dataclass(frozen=True, eq=False)
class LayerEdit:
    """The new weight and bias of ``layer``: the sum of ``terms``, and ``shift`` on the bias.

    ``biased`` says that it needs a bias from now on.
    """

    layer: Layer
    terms: tuple[Term, ...]
    shift: Tensor
    biased: bool


@dataclass(frozen=True, eq=False)
class NormEdit:
    """A BatchNorm that stays, but computes ``affine`` from now on."""

    path: str
    affine: Affine


@dataclass(frozen=True)
class Activation:
    """An activation that a fused class ran after its BatchNorm, by operator name and arguments."""

    name: str
    arguments: tuple[tuple[str, float | bool | str], ...] = ()


@dataclass(frozen=True)
class Replacement:
    """Replace the module at ``path`` by the rest of it.

    ``keep`` lists its children (by attribute name) and activations to keep, in order; with
    nothing to keep it becomes an ``nn.Identity``. Where others read its input as well (``shared``),
    its kept children must not work in place: that would overwrite what the others read.
    """

    path: str
    keep: tuple[str | Activation, ...] = ()
    shared: bool = False


@dataclass(frozen=True)
class ZeroBranch:
    """Put a module that yields a scalar zero in the place of the branch at ``path``."""

    path: str


@dataclass(frozen=True)
class MoveLayer:
    """Move the layer at ``path`` to the place of the branch at ``target``, and leave a scalar zero.

    An in-place addition needs a branch of full size on its left.
    """

    path: str
    target: str


@dataclass(frozen=True)
class Bypass:
    """Take the ``occurrence``-th operator ``op_name`` out of the forward of the module ``path``,
    which ``torch.fx`` rewrites."""

    path: str
    op_name: str
    occurrence: int


@dataclass(frozen=True)
class DropScale:
    """Replace the scale parameter ``name`` of the module at ``path`` by a single 1.

    With ``absent`` it becomes ``None``, for forwards that take that.
    """

    path: str
    name: str
    absent: bool


@dataclass(frozen=True)
class DropAffine:
    """Take the weight and the bias of the LayerNorm, or a norm like it, at ``path``."""

    path: str


@dataclass(frozen=True)
class NotInPlace:
    """Let the activation module at ``path`` make a tensor of its own.

    It worked in place on what a BatchNorm had made, and would do so on a tensor that others read.
    """

    path: str


@dataclass(frozen=True, eq=False)
class KeepShift:
    """Let a constant be added in the place of what ``removal`` takes out.

    ``shift`` is float64, of a shape that broadcasts against the input.
    """

    removal: Bypass | Replacement
    shift: Tensor


Removal = (
    NotInPlace | Replacement | ZeroBranch | MoveLayer | Bypass | DropScale | DropAffine | KeepShift
)


@dataclass(frozen=True)
class Folded:
    """A BatchNorm (or another constant per-channel map) that is gone.

    Attributes:
        name: its module path.
        rule: the rule that folded it, such as ``"into the producer"``.
        into: the layers that took it up.
        kind: ``"batchnorm"``, or ``"scale"`` for a LayerScale and the like, or ``"branch"`` for a
            parallel convolution merged into another; or the class of a norm whose affine
            parameters are gone, such as ``"LayerNorm"``.
    """

    name: str
    rule: str
    into: tuple[str, ...]
    kind: str = "batchnorm"


@dataclass(frozen=True)
class Left:
    """A BatchNorm that stays, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything to be done to a model, and what becomes of each BatchNorm.

    ``faults`` are sentences about rules that failed, which are bugs in deployfold.
    """

    folded: tuple[Folded, ...]
    left: tuple[Left, ...]
    layers: tuple[LayerEdit, ...]
    norms: tuple[NormEdit, ...]
    removals: tuple[Removal, ...]
    faults: tuple[str, ...] = ()
