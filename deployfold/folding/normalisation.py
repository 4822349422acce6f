"""A model with its input normalisation in front, for folding both together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Cast(nn.Module):
    """Converts a tensor, such as a uint8 picture, to the dtype of the model."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.like: Tensor
        self.register_buffer("like", torch.zeros((), dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` in the dtype of this module, which ``.double()`` and ``.half()`` change."""
        return x.to(self.like.dtype)


class Normalise(nn.Module):
    """``(x * scale - mean) / std``, channel by channel on axis 1."""

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
    """A model that takes pictures as they are decoded.

    :func:`deployfold.folding.fold` folds the scale into the first layers, and the shift as well
    where these add no zero padding; otherwise one addition stays.

    Args:
        model: takes normalised pictures as its first argument.
        mean, std: of each channel, for pixels that ``scale`` was applied to.
        scale: 1/255 for uint8 pixels and statistics of values between 0 and 1.
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
        """What the model returns for the pictures, of any dtype, normalised."""
        return self.model(self.normalise(self.cast(pictures)), *others)
