"""Partly known tensors: one number for each element of a value, where NaN is not known.

Each is a float64 tensor with as many axes as the value that it describes, of size one along every
axis that its numbers do not vary along. Rules use two for each value that they change: a scale and
a shift.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deployfold.folding.graph.graph import Value

_TOLERANCE = 1e-12
"""Relative; numbers that should be equal differ by rounding where shifts are added up."""


class NotSeparable(Exception):
    """A channel-wise affine map cannot be carried through an operator; the text says why."""

    def __init__(self, reason: str) -> None:
        if not reason:
            raise ValueError("a refusal needs a reason")
        super().__init__(reason)


def constant_along(numbers: Tensor, axes: frozenset[int]) -> Tensor:
    """The same numbers, of size one along each of ``axes``.

    Raises:
        NotSeparable: they vary there.
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
    """The same numbers, of size one along every axis that they do not vary along."""
    for axis, size in enumerate(numbers.shape):
        if size == 1:
            continue
        first = numbers.narrow(axis, 0, 1)
        same = numbers == first
        if not bool(same.all()):
            same |= numbers.isnan() & first.isnan()
            if not bool(same.all()):
                continue
        numbers = first
    return numbers


def merge(known: Tensor, more: Tensor) -> Tensor:
    """What either of the two knows.

    Raises:
        NotSeparable: they contradict each other.
    """
    if differ(known, more):
        raise NotSeparable("two operators would have to change one tensor in different ways")
    return compact(torch.where(known.isnan(), more, known))


def differ(first: Tensor, second: Tensor) -> bool:
    """Whether two contradict each other where both are known."""
    return bool(((first - second).abs() > _TOLERANCE * first.abs().clamp(min=1)).any())


def on_axis(value: Value, axis: int, numbers: Tensor) -> Tensor:
    """``numbers``, of shape ``(channels,)``, along ``axis`` of ``value``."""
    shape = [1] * len(value.shape)
    shape[axis] = -1
    return numbers.reshape(shape)


def along(numbers: Tensor, axis: int) -> Tensor:
    """The numbers along ``axis``, of shape ``(size,)`` or ``(1,)``.

    Raises:
        NotSeparable: they vary along another axis.
    """
    return constant_along(numbers, frozenset(range(numbers.dim())) - {axis}).flatten()


def varying_axes(numbers: Tensor) -> list[int]:
    """The axes that the numbers vary along."""
    return [axis for axis, size in enumerate(compact(numbers).shape) if size > 1]


def like(value: Value, number: float) -> Tensor:
    """One number for every element of ``value``; NaN for nothing known."""
    return torch.full([1] * len(value.shape), number, dtype=torch.float64)
