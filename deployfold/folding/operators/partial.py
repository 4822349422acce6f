"""Partly known tensors: one number for each element of a value, where NaN means unknown.

A partly known tensor is in float64 and has as many axes as the value that it describes. Its size is
one along every axis along which its numbers do not vary. Rules use two for each value that they
change: a scale and a shift.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deployfold.folding.graph.graph import Value

_TOLERANCE = 1e-12
"""Relative tolerance: rounding in sums of shifts makes equal numbers differ slightly."""


class NotSeparable(Exception):
    """An error: a channel-wise affine map cannot pass an operator. The text gives the reason."""

    def __init__(self, reason: str) -> None:
        if not reason:
            raise ValueError("a refusal needs a reason")
        super().__init__(reason)


def constant_along(numbers: Tensor, axes: frozenset[int]) -> Tensor:
    """Reduce ``numbers`` to size one along each of ``axes``.

    Raises:
        NotSeparable: the numbers vary along one of the axes.
    """
    for axis in axes:
        if numbers.shape[axis] == 1:
            continue
        unknown = numbers.isnan()
        low = numbers.masked_fill(unknown, torch.inf).amin(axis, keepdim=True)
        high = numbers.masked_fill(unknown, -torch.inf).amax(axis, keepdim=True)
        if bool((high - low > _TOLERANCE * high.abs().clamp(min=1)).any()):
            raise NotSeparable("elements of one channel would have to change in different ways")
        numbers = low.masked_fill(low.isinf(), torch.nan)
    return numbers


def compact(numbers: Tensor) -> Tensor:
    """Reduce ``numbers`` to size one along every axis along which they do not vary."""
    for axis, size in enumerate(numbers.shape):
        if size == 1:
            continue
        first = numbers.narrow(axis, 0, 1)
        if not torch.equal(numbers, first.expand_as(numbers)):
            unknown = first.isnan()  # NaN is unequal to itself
            if not bool(unknown.any()):
                continue
            if not bool(((numbers == first) | (numbers.isnan() & unknown)).all()):
                continue
        numbers = first
    return numbers


def merge(known: Tensor, more: Tensor) -> Tensor:
    """Combine the numbers that either tensor knows.

    Raises:
        NotSeparable: the two tensors contradict each other.
    """
    if differ(known, more):
        raise NotSeparable("two operators would have to change one tensor in different ways")
    return compact(torch.where(known.isnan(), more, known))


def differ(first: Tensor, second: Tensor) -> bool:
    """Whether two partly known tensors differ at an element that both know."""
    if torch.equal(first, second):
        return False
    return bool(((first - second).abs() > _TOLERANCE * first.abs().clamp(min=1)).any())


def on_axis(value: Value, axis: int, numbers: Tensor) -> Tensor:
    """Reshape ``numbers``, of shape ``(channels,)``, to lie along ``axis`` of ``value``."""
    shape = [1] * len(value.shape)
    shape[axis] = -1
    return numbers.reshape(shape)


def along(numbers: Tensor, axis: int) -> Tensor:
    """The numbers along ``axis``, of shape ``(size,)`` or ``(1,)``.

    Raises:
        NotSeparable: the numbers vary along another axis.
    """
    return constant_along(numbers, frozenset(range(numbers.dim())) - {axis}).flatten()


def varying_axes(numbers: Tensor) -> list[int]:
    """The axes along which the numbers vary."""
    return [axis for axis, size in enumerate(compact(numbers).shape) if size > 1]


def like(value: Value, number: float) -> Tensor:
    """The same ``number`` for every element of ``value``; NaN means that all are unknown."""
    return torch.full([1] * len(value.shape), number, dtype=torch.float64)
