"""Mean and variance of the inputs of a model's BatchNorms, on real samples, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .graph.affine_layer import is_batchnorm_module

LEAST_SAMPLES = 8
"""The least number of samples; the statistics of fewer samples vary too much."""


class Moments:
    """Count, sum and sum of squares of each channel, shape ``(channels,)``, in float64."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self._sums = torch.zeros(channels, dtype=torch.float64)
        self._squares = torch.zeros(channels, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """Add every element of ``x``, of shape ``(batch, channels, ...)``."""
        values = x.detach().double().movedim(1, 0).flatten(1).cpu()
        self.count += values.shape[1]
        self._sums += values.sum(1)
        self._squares += values.square().sum(1)

    @property
    def mean(self) -> Tensor:
        """The mean of each channel."""
        return self._sums / self.count

    @property
    def variance(self) -> Tensor:
        """The variance of each channel, as a running variance has it: divided by ``count - 1``."""
        total = (self._squares - self.count * self.mean.square()).clamp_min(0)
        return total / max(1, self.count - 1)


class Norm:
    """A BatchNorm in evaluation mode, its running statistics, and the moments of its inputs."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.running_mean = layer.get_buffer("running_mean")
        self.running_var = layer.get_buffer("running_var")
        self.eps = float(getattr(layer, "eps", 0.0))
        self.moments = Moments(self.running_mean.numel())

    def record(self, layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        """Add the input of one call; a hook for ``register_forward_pre_hook``."""
        x = arguments[0] if arguments else None
        if torch.is_tensor(x) and x.dim() > 1 and x.shape[1] == self.running_mean.numel():
            self.moments.add(x)

    def record_and_adopt(self, layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        """Add the input of one call and let the call use the new statistics."""
        self.record(layer, arguments)
        self.adopt()

    def adopt(self) -> None:
        """Make the moments, if there are any, the running statistics."""
        if self.moments.count:
            self.running_mean.copy_(self.moments.mean)
            self.running_var.copy_(self.moments.variance)

    def distance(self) -> tuple[Tensor, Tensor]:
        """How far the inputs are from the running statistics, channel by channel.

        Returns:
            The distance of the means in running standard deviations, and the variance of the inputs
            divided by the running one; float64, shape ``(channels,)``.
        """
        trained = self.running_var.double().cpu() + self.eps
        shift = (self.moments.mean - self.running_mean.double().cpu()).abs() / trained.sqrt()
        return shift, (self.moments.variance + self.eps) / trained


def norms_of(model: nn.Module) -> dict[str, Norm]:
    """Every BatchNorm of ``model`` with running statistics in evaluation mode, by module path."""
    found = {name: one for name, one in model.named_modules() if is_batchnorm_module(one)}
    return {
        name: Norm(layer)
        for name, layer in found.items()
        if isinstance(getattr(layer, "running_mean", None), Tensor)
        and isinstance(getattr(layer, "running_var", None), Tensor)
        and not (layer.training and isinstance(layer, _BatchNorm))
    }


def measure(
    model: nn.Module,
    norms: dict[str, Norm],
    inputs: Sequence[tuple[Any, ...]],
    *,
    adopt: bool = False,
) -> None:
    """Run ``model`` on every tuple of ``inputs`` and collect the moments of ``norms`` anew.

    Args:
        adopt: at each call, a norm's running statistics become those of its inputs so far.
    """
    handles = []
    for norm in norms.values():
        norm.moments = Moments(norm.running_mean.numel())
        hook = norm.record_and_adopt if adopt else norm.record
        handles.append(norm.layer.register_forward_pre_hook(hook))
    try:
        with torch.no_grad():
            for item in inputs:
                model(*item)
    finally:
        for handle in handles:
            handle.remove()
