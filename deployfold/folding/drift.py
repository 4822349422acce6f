"""Comparing the statistics of real inputs with the running statistics of BatchNorm layers.

A large difference usually means that the inputs are not preprocessed as in training. Folding is
exact all the same: the folded model makes the same mistakes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from deployfold.errors import first_few

from .modules import copy_modules

LEAST_SAMPLES = 8
"""The least number of samples; the statistics of fewer samples vary too much."""
FAR = 1.0
"""The distance between two means that counts as far, in standard deviations.

Measured with a trained EfficientNet-Lite0: at most 0.31 in any layer on 16 crops of unrelated
pictures, and 53 in the first layer on the raw pixels of the same crops.
"""


@dataclass(frozen=True)
class Drift:
    """A BatchNorm whose input is far from its running statistics.

    Attributes:
        name: module path of the BatchNorm.
        shift: median over the channels of the distance of the means, in standard deviations.
        spread: median over the channels of the factor between the variances, at least 1.
    """

    name: str
    shift: float
    spread: float


class _Moments:
    """Count, sum and sum of squares per channel, in float64."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.sums = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        values = x.detach().double().movedim(1, 0).flatten(1).cpu()
        self.count += values.shape[1]
        self.sums += values.sum(1)
        self.squares += values.square().sum(1)


def drifted(model: nn.Module, inputs: Sequence[tuple[Any, ...]]) -> list[Drift]:
    """Find the BatchNorms whose inputs are ``FAR`` from their running statistics, in model order.

    Args:
        model: a model in evaluation mode, which stays unchanged.
        inputs: argument tuples of the forward, made of real samples.
    """
    copied = copy_modules(model)
    layers = {
        name: (layer, _Moments(layer.num_features))
        for name, layer in copied.named_modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    }
    if not layers:
        return []
    for layer, moments in layers.values():
        layer.register_forward_pre_hook(_recording(moments))
    with torch.no_grad():
        for item in inputs:
            try:
                copied(*item)
            except Exception:  # the stages that need this sample report the model's error
                return []
    found = (_drift(name, layer, moments) for name, (layer, moments) in layers.items())
    return [one for one in found if one is not None and one.shift >= FAR]


def _recording(moments: _Moments) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def record(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        moments.add(arguments[0])

    return record


def _drift(name: str, layer: _BatchNorm, moments: _Moments) -> Drift | None:
    mean, variance = layer.running_mean, layer.running_var
    if not moments.count or mean is None or variance is None:
        return None
    own = moments.sums / moments.count
    own_variance = (moments.squares / moments.count - own.square()).clamp_min(0) + layer.eps
    trained = variance.double().cpu() + layer.eps
    shift = ((own - mean.double().cpu()).abs() / trained.sqrt()).median()
    ratio = own_variance / trained
    return Drift(name, float(shift), float(torch.maximum(ratio, 1 / ratio).median()))


def drift_note(found: Sequence[Drift]) -> str:
    """A note on the layers that :func:`drifted` found, with the numbers of the first layer."""
    first = found[0]
    others = f" (and {first_few([one.name for one in found[1:]])})" if len(found) > 1 else ""
    return (
        f"The input data is far from what the model was trained on: at {first.name}{others} the "
        f"means differ by {first.shift:.1f} standard deviations and the variances by a factor of "
        f"{first.spread:.3g}. Check the preprocessing."
    )
