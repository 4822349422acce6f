"""Converts the inputs and outputs of runners between torch tensors and NumPy arrays."""

from __future__ import annotations

import numpy as np
import torch

from deployfold.util.arrays import Array

from .protocol import Inputs


def to_tensors(inputs: Inputs) -> tuple[torch.Tensor, ...]:
    """Private CPU copies of ``inputs`` as torch tensors, with the same shapes and dtypes."""
    return tuple(
        value.detach().cpu().clone(memory_format=torch.contiguous_format)
        if isinstance(value, torch.Tensor)
        else torch.from_numpy(np.array(value, order="C"))
        for value in inputs
    )


def to_array(tensor: torch.Tensor) -> Array:
    """A numpy copy of ``tensor``, in float32 if numpy lacks the dtype."""
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point() and tensor.dtype not in (
        torch.float16,
        torch.float32,
        torch.float64,
    ):
        tensor = tensor.float()
    array: Array = np.array(tensor.resolve_conj().resolve_neg().numpy())
    return array
