"""The plan of a fold, as data: names and float64 vectors, without any tensor of the model.

The same plan is applied to the copy that the user gets and to the float64 copy that the proof runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from deployfold.folding.algebra import Affine
from deployfold.folding.graph.layers import Layer


@dataclass(frozen=True, eq=False)
class Term:
    """One summand of a layer's new weight: ``rows * (source's weight) * columns``.

    Attributes:
        source: the layer whose weight is scaled, or ``None`` for the identity.
        rows: the factor of every output channel, ``(out,)`` in float64.
        columns: the affine map in front of the weight, over its input channels.
    """

    source: Layer | None
    rows: Tensor
    columns: Affine | None = None


@dataclass(frozen=True, eq=False)
class LayerEdit:
    """The new weight and bias of one layer.

    Attributes:
        shift: the constant to add to the bias, ``(out,)`` in float64.
        biased: the layer needs a bias after the edit.
        bias_only: another edit writes the weight, which several layers with different biases have.
    """

    layer: Layer
    terms: tuple[Term, ...]
    shift: Tensor
    biased: bool
    bias_only: bool = False


@dataclass(frozen=True, eq=False)
class NormEdit:
    """A BatchNorm that stays, with a new weight and bias that make it compute ``affine``."""

    path: str
    affine: Affine


@dataclass(frozen=True)
class Activation:
    """An activation that a fused class runs after its BatchNorm: its module, and the arguments."""

    kind: type[nn.Module]
    arguments: tuple[tuple[str, float | bool | str], ...] = ()


@dataclass(frozen=True)
class Replacement:
    """Replace the module at ``path`` by those of its parts that are kept.

    ``keep`` lists the children (by attribute name) and activations to keep, in order. With nothing
    to keep, the module becomes an ``nn.Identity``. Where the module's input has other readers
    (``shared``), the kept children must not work in place, because that would overwrite the input.
    """

    path: str
    keep: tuple[str | Activation, ...] = ()
    shared: bool = False


@dataclass(frozen=True)
class ZeroBranch:
    """Replace the branch at ``path`` by a module that returns a scalar zero."""

    path: str


@dataclass(frozen=True)
class MoveLayer:
    """Move the layer at ``path`` to the place of the branch at ``target``, and leave a scalar zero.

    The move is needed because an in-place addition must have a branch of full size on its left.
    """

    path: str
    target: str


@dataclass(frozen=True)
class Bypass:
    """Remove one operator from the forward of the module at ``path``, which ``torch.fx`` rewrites.

    The operator is the ``occurrence``-th one named ``op_name``, counted from 0.
    """

    path: str
    op_name: str
    occurrence: int


@dataclass(frozen=True)
class DropScale:
    """Replace the scale parameter ``name`` of the module at ``path`` by a single 1.

    With ``absent`` the parameter becomes ``None``, for forwards that accept ``None``.
    """

    path: str
    name: str
    absent: bool


@dataclass(frozen=True)
class DropAffine:
    """Remove the weight and the bias of the LayerNorm, or similar norm, at ``path``."""

    path: str


@dataclass(frozen=True)
class NotInPlace:
    """Make the activation module at ``path`` return a new tensor instead of working in place.

    The module overwrote the output of a BatchNorm. Without the BatchNorm, it would overwrite
    a tensor that has other readers.
    """

    path: str


@dataclass(frozen=True, eq=False)
class KeepShift:
    """Add a constant in the place of the operator or module that ``removal`` removes.

    ``shift`` is float64 and has a shape that broadcasts against the input.
    """

    removal: Bypass | Replacement
    shift: Tensor


Removal = (
    NotInPlace | Replacement | ZeroBranch | MoveLayer | Bypass | DropScale | DropAffine | KeepShift
)


@dataclass(frozen=True)
class Folded:
    """A BatchNorm, or another constant per-channel map, that has been folded.

    Attributes:
        name: the module path of the BatchNorm or map.
        rule: the rule that folded it, such as ``"into the producer"``.
        into: the layers that absorbed the map.
        kind: ``"batchnorm"``, or ``"scale"`` for a LayerScale and the like, or ``"branch"`` for a
            parallel convolution merged into another; or the class of a norm whose affine
            parameters were folded, such as ``"LayerNorm"``.
    """

    name: str
    rule: str
    into: tuple[str, ...]
    kind: str = "batchnorm"


@dataclass(frozen=True)
class Left:
    """A BatchNorm that stays, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Plan:
    """All changes to make to a model, and the outcome for each BatchNorm.

    Attributes:
        folded, left: the BatchNorms that go, and the BatchNorms that stay.
        layers, norms: new weights and biases of layers and of the BatchNorms that stay.
        removals: the changes to modules and forwards.
        faults: sentences about rules that failed, which are bugs in deployfold.
    """

    folded: tuple[Folded, ...]
    left: tuple[Left, ...]
    layers: tuple[LayerEdit, ...]
    norms: tuple[NormEdit, ...]
    removals: tuple[Removal, ...]
    faults: tuple[str, ...] = ()
