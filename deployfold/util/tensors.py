"""Numbers of torch tensors."""

from __future__ import annotations

import torch


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether a real tensor holds neither NaN nor infinity; an empty one holds neither.

    The extremes show both: ``aminmax`` takes one pass, allocates nothing, and passes NaN on.
    """
    return not tensor.numel() or all(bool(bound.isfinite()) for bound in torch.aminmax(tensor))
