"""Modules that put the input normalisation in front of a model, so that both fold together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Cast(nn.Module):
    """A module that converts a tensor, such as a uint8 picture, to the dtype of the model."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.like: Tensor
        self.register_buffer("like", torch.zeros((), dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` in the dtype of this module, which ``.double()`` and ``.half()`` change."""
        return x.to(self.like.dtype)


class Normalise(nn.Module):
    """A module that computes ``(x * scale - mean) / std``, channel by channel on axis 1."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], scale: float) -> None:
        super().__init__()
        self.factor: Tensor
        self.shift: Tensor
        wide = torch.tensor([list(mean), list(std)], dtype=torch.float64)[:, :, None, None]
        self.register_buffer("factor", (scale / wide[1]).float())
        self.register_buffer("shift", (-wide[0] / wide[1]).float())

    def forward(self, x: Tensor) -> Tensor:
        """Normalise pictures of shape ``(batch, channels, height, width)``."""
        return x * self.factor + self.shift


class Normalised(nn.Module):
    """A model that takes decoded pictures and normalises them before the wrapped model.

    :func:`deployfold.folding.fold` folds the scale into the first layers. The shift folds as well
    where the first layers add no zero padding; otherwise one addition stays.

    Args:
        model: a model that takes normalised pictures as its first argument.
        mean, std: one number for each channel, for pixels multiplied by ``scale``.
        scale: the factor of a pixel; 1/255 suits uint8 pixels with statistics between 0 and 1.
    """

    def __init__(
        self, model: nn.Module, mean: Sequence[float], std: Sequence[float], scale: float = 1 / 255
    ) -> None:
        super().__init__()
        floats = (item.dtype for item in model.parameters() if item.is_floating_point())
        dtype = next(floats, torch.float32)
        self.cast = Cast(dtype)
        self.normalise = Normalise(mean, std, scale).to(dtype)
        self.model = model
        self.train(model.training)

    def forward(self, pictures: Tensor, *others: Any) -> Any:
        """Normalise the pictures, which may have any dtype, and return the model's result."""
        return self.model(self.normalise(self.cast(pictures)), *others)
