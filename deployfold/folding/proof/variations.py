"""Inputs of other shapes, on which the proof is made as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deployfold.folding.modules import map_tensors, tensors_in

from .compare import another_batch, random_like

Inputs = tuple[Any, ...]


def variations(inputs: Inputs) -> list[list[Inputs]]:
    """Groups of random inputs of other shapes that the model may take.

    The first of the first group has another batch size and every height, width and length one
    larger; behind it stand the same changes one by one, for a model that refuses them together.
    Each further group has one axis that is one smaller. So each axis is met even and odd.
    """
    batch = another_batch(inputs)
    groups: list[list[Inputs]] = [[]]
    for axes in _axes(inputs):
        groups[0].append(resized(batch, axes, 1))
    groups[0].append(batch)
    for axes in _axes(inputs):
        groups[0].append(resized(inputs, axes, 1))
        if _axes(inputs)[0] == axes:
            groups += [[resized(inputs, (axis,), -1)] for axis in axes]
    return [[random_like(item) for item in group] for group in groups]


_LARGE = 64
"""Heights, widths and lengths from here on are halved, which makes a proof cheaper."""


def smaller(inputs: Inputs) -> Inputs | None:
    """Random inputs of another batch size with about half of every large height, width and length.

    Each of these axes is even where it was odd, and the other way round. ``None`` if no axis is
    large.
    """
    (axes, *_), found = [*_axes(inputs), ()], another_batch(inputs)
    first = next((tensor for tensor in tensors_in(inputs) if tensor.dim()), None)
    large = [axis for axis in axes if first is not None and first.shape[axis] >= _LARGE]
    if first is None or not large or len(large) < len(axes):
        return None
    for axis in large:
        size = first.shape[axis]
        half = size // 2 + (size // 2 + size + 1) % 2
        found = resized(found, (axis,), half - size)
    return random_like(found)


def _axes(inputs: Inputs) -> list[tuple[int, ...]]:
    """The axes of the first tensor that may be heights, widths and lengths, by likelihood."""
    first = next((tensor for tensor in tensors_in(inputs) if tensor.dim()), None)
    if first is None:
        return []
    if first.dim() > 3:
        return [tuple(range(2, first.dim()))]
    if first.dim() == 3:  # channels before the length, or behind it
        return [(2,), (1,)]
    return [(1,)] if first.dim() == 2 and not first.is_floating_point() else []


def resized(inputs: Inputs, axes: Sequence[int], by: int) -> Inputs:
    """The same inputs with ``axes`` of the first tensor longer by ``by`` elements.

    Every axis behind the batch of the other tensors that is as long follows; new elements repeat
    the last one.
    """
    first = next(tensor for tensor in tensors_in(inputs) if tensor.dim())
    lengths = {first.shape[axis] for axis in axes}

    def resize(tensor: Tensor) -> Tensor:
        own = (
            axes
            if tensor.dim() == first.dim()
            else [axis for axis in range(1, tensor.dim()) if tensor.shape[axis] in lengths]
        )
        for axis in own:
            size = tensor.shape[axis]
            if size + by < 1:
                continue
            index = torch.arange(size + by, device=tensor.device).clamp(max=size - 1)
            tensor = tensor.index_select(axis, index)
        return tensor

    values: Inputs = map_tensors(inputs, resize)
    return values
