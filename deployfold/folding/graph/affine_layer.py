"""An affine layer: a BatchNorm or a constant scale, with every place where it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from deployfold.folding.algebra import Affine
from deployfold.folding.plan import Removal

from .graph import Op, Value


@dataclass(eq=False)
class AffineLayer:
    """One constant channel-wise affine map of a model: a BatchNorm, or a scale like LayerScale.

    Attributes:
        name: the module path, or where its function is called.
        functional: it is a function called in the forward of some other module.
        sites: every operator that runs it.
        affine: what it computes, in float64; other affine layers may have been folded into it.
        removals: how to take it out; empty when ``reason`` says why it cannot be.
        kind: what the report counts it as: ``"batchnorm"``, ``"scale"``, or the class of norm whose
            affine parameters it is, such as ``"LayerNorm"``.
        editable: it has, or can be given, a weight and a bias of its own.
    """

    name: str
    module_path: str
    is_batchnorm: bool
    functional: bool = False
    axis: int | None = 1
    sites: list[Op] = field(default_factory=list)
    affine: Affine | None = None
    removals: tuple[Removal, ...] = ()
    reason: str | None = None
    editable: bool = False
    edited: bool = False
    kind: str = ""

    def __post_init__(self) -> None:
        self.kind = self.kind or ("batchnorm" if self.is_batchnorm else "scale")

    @property
    def of_norm(self) -> bool:
        """Whether it is the affine part of a layer that normalises by the data itself."""
        return self.kind not in ("batchnorm", "scale")

    def channel_axis(self, value: Value) -> int:
        """The axis of ``value`` that the map's channels lie on."""
        return 1 if self.axis is None else self.axis % len(value.shape)


def is_batchnorm_module(module: nn.Module) -> bool:
    """Whether a module counts as a BatchNorm layer: one of torch's, or one with its statistics."""
    if isinstance(module, nn.modules.instancenorm._InstanceNorm):
        return False
    if isinstance(module, _BatchNorm):
        return True
    own = dict(module.named_buffers(recurse=False))
    return "running_mean" in own and "running_var" in own
