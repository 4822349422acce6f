"""The record of an affine layer: a BatchNorm or a constant scale, and the operators that run it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from deployfold.folding.algebra import Affine
from deployfold.folding.plan import Removal

from .graph import Op, Value

UNKNOWN = Affine(torch.empty(0), torch.empty(0))
"""The map of a layer whose numbers are not known; such a layer has a ``reason`` to stay."""


@dataclass(eq=False)
class AffineLayer:
    """A channel-wise affine map with constant numbers: a BatchNorm, or a scale such as LayerScale.

    Attributes:
        name: the module path. For a function call, the place of the call.
        functional: the forward of another module calls the layer as a function.
        sites: the operators that run the layer.
        affine: the scale and shift of each channel, in float64; other affine layers may already
            be folded into these numbers. ``UNKNOWN`` only if ``reason`` is given.
        removals: the edits that remove the layer; empty if ``reason`` explains why it stays.
        kind: the name of its group in the report: ``"batchnorm"``, ``"scale"``, or the class of
            the norm that owns the affine parameters, such as ``"LayerNorm"``.
        editable: the layer has a weight and a bias of its own, or can get them.
    """

    name: str
    module_path: str
    is_batchnorm: bool
    functional: bool = False
    axis: int | None = 1
    sites: list[Op] = field(default_factory=list)
    affine: Affine = UNKNOWN
    removals: tuple[Removal, ...] = ()
    reason: str | None = None
    editable: bool = False
    edited: bool = False
    kind: str = ""

    def __post_init__(self) -> None:
        self.kind = self.kind or ("batchnorm" if self.is_batchnorm else "scale")

    @property
    def of_norm(self) -> bool:
        """Whether the layer is the affine part of a norm with statistics of its input."""
        return self.kind not in ("batchnorm", "scale")

    def channel_axis(self, value: Value) -> int:
        """The channel axis of ``value``."""
        return 1 if self.axis is None else self.axis % len(value.shape)


def is_batchnorm_module(module: nn.Module) -> bool:
    """Whether a module is a BatchNorm: torch's own class, or a class with running statistics."""
    if isinstance(module, nn.modules.instancenorm._InstanceNorm):
        return False
    if isinstance(module, _BatchNorm):
        return True
    own = dict(module.named_buffers(recurse=False))
    return "running_mean" in own and "running_var" in own
