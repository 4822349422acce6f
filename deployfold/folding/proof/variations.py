"""Inputs of other batch sizes, heights, widths and lengths, which the proof compares as well."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from deployfold.folding.modules import map_tensors, tensors_in

from .compare import another_batch, random_like

Inputs = tuple[Any, ...]


def variations(inputs: Inputs) -> list[list[Inputs]]:
    """Groups of random inputs of other shapes that the model may take.

    The first input of the first group has another batch size and every height, width and length one
    larger. The rest of the group makes these changes one by one, for a model that refuses them
    together. Each further group has one axis that is one smaller. Each axis is thus tried at an
    even and an odd length.
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


_LEAST = 32
"""The least height, width or length that division makes; smaller maps show less of a kernel."""


def smaller(inputs: Inputs) -> list[Inputs]:
    """Random inputs of another batch size, with heights, widths and lengths a fourth or a half.

    An even length becomes odd and an odd length even. A division is left out if an axis would
    become shorter than ``_LEAST``. The smaller input comes first, because it costs the proof less.
    """
    axes = [*_axes(inputs), ()][0]
    first = next((tensor for tensor in tensors_in(inputs) if tensor.dim()), None)
    sizes = [] if first is None else [first.shape[axis] for axis in axes]
    found = []
    for divisor in (4, 2):
        if sizes and min(sizes) >= divisor * _LEAST:
            item = another_batch(inputs)
            for axis, size in zip(axes, sizes, strict=True):
                part = size // divisor
                item = resized(item, (axis,), part + (part + size + 1) % 2 - size)
            found.append(random_like(item))
    return found


_FARTHER = (1 / 2, 1 / 4, 2, 4)  # small ones first, because they cost the proof less
_NEXT = range(2, 9)  # multiples of small numbers
_MOST_NUMBERS = 1 << 26


def apart(inputs: Inputs) -> Iterator[Inputs]:
    """Random inputs in which one of several tensors alone is one longer, for each tensor."""
    tensors = list(tensors_in(inputs))
    for own in tensors if len(tensors) > 1 else ():
        for axes in _axes((own,)):
            longer = {id(own): resized((own,), axes, 1)[0]}
            yield random_like(map_tensors(inputs, partial(_replaced, longer)))


def _replaced(new: dict[int, Tensor], tensor: Tensor) -> Tensor:
    return new.get(id(tensor), tensor)


def further(inputs: Inputs) -> tuple[Iterator[Inputs], Iterator[Inputs]]:
    """Random inputs for a model whose code compares sizes: of sizes far away, and the next sizes.

    The first far away has a larger batch.
    """
    far = (_with_sizes(inputs, times, 0) for times in _FARTHER)
    near = (_with_sizes(inputs, 1, more) for more in _NEXT)
    larger = another_batch(inputs, times=4)
    return (
        (random_like(item) for item in chain([larger], far) if _is_small(item)),
        (random_like(item) for item in near if _is_small(item)),
    )


def _is_small(inputs: Inputs) -> bool:
    return sum(tensor.numel() for tensor in tensors_in(inputs)) <= _MOST_NUMBERS


def _with_sizes(inputs: Inputs, times: float, more: int) -> Inputs:
    """The same inputs with every height, width and length multiplied and added to."""
    for axis in [*_axes(inputs), ()][0]:
        size = next(tensor for tensor in tensors_in(inputs) if tensor.dim()).shape[axis]
        inputs = resized(inputs, (axis,), int(times * size) + more - size)
    return inputs


def _axes(inputs: Inputs) -> list[tuple[int, ...]]:
    """Sets of axes of the first tensor that may be heights, widths and lengths, likeliest first."""
    first = next((tensor for tensor in tensors_in(inputs) if tensor.dim()), None)
    if first is None:
        return []
    if first.dim() > 3:
        return [tuple(range(2, first.dim()))]
    if first.dim() == 3:  # the channels may stand before or behind the length
        return [(2,), (1,)]
    return [(1,)] if first.dim() == 2 and not first.is_floating_point() else []


def resized(inputs: Inputs, axes: Sequence[int], by: int) -> Inputs:
    """The same inputs with ``axes`` of the first tensor longer by ``by`` elements.

    In tensors of another rank, every axis behind the batch that has the old length changes as well.
    A tensor of the same rank keeps its ratio to the first where that gives a whole number. New
    elements repeat the last element.
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
            whole = first.shape[axis] if own is axes else size
            scaled, rest = divmod(size * (whole + by), whole)
            length = size + by if rest else scaled
            if length < 1:
                continue
            index = torch.arange(length, device=tensor.device).clamp(max=size - 1)
            tensor = tensor.index_select(axis, index)
        return tensor

    values: Inputs = map_tensors(inputs, resize)
    return values
