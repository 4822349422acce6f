"""Comparing the statistics of real inputs with the running statistics of BatchNorm layers.

A large difference usually means that the inputs are not preprocessed as in training. Folding is
exact all the same: the folded model makes the same mistakes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from deployfold.errors import first_few

from .half import half_on_cpu, in_float32
from .modules import copy_modules
from .moments import Norm, measure, norms_of

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


def drifted(model: nn.Module, inputs: Sequence[tuple[Any, ...]]) -> list[Drift]:
    """Find the BatchNorms whose inputs are ``FAR`` from their running statistics, in order."""
    half = half_on_cpu(model) is not None
    copied = copy_modules(model, share_parameters=not half)
    if half:
        copied, inputs = copied.float(), [in_float32(item) for item in inputs]
    norms = norms_of(copied)
    if not norms:
        return []
    try:
        measure(copied, norms, inputs)
    except Exception:  # the stages that need this sample report the model's error
        return []
    found = (_drift(name, norm) for name, norm in norms.items() if norm.moments.count)
    return [one for one in found if one.shift >= FAR]


def _drift(name: str, norm: Norm) -> Drift:
    shift, ratio = norm.distance()
    return Drift(name, float(shift.median()), float(torch.maximum(ratio, 1 / ratio).median()))


def drift_note(found: Sequence[Drift]) -> str:
    """A note on the layers that :func:`drifted` found, with the numbers of the first layer."""
    first = found[0]
    others = f" (and {first_few([one.name for one in found[1:]])})" if len(found) > 1 else ""
    return (
        f"The input data is far from what the model was trained on: at {first.name}{others} the "
        f"means differ by {first.shift:.1f} standard deviations and the variances by a factor of "
        f"{first.spread:.3g}. Check the preprocessing."
    )
