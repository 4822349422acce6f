"""Gauges: how a tensor is changed.

The *gauge* of a tensor ``v`` is a change of it to ``scale * v + shift``, element by element. Each
of the two is a float64 tensor with the axes of ``v``, of size one along those that it does not vary
along. NaN is a number that is not determined, or that nobody asks for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deployfold.folding.graph.graph import Value

from .channels import NotSeparable

_TOLERANCE = 1e-12
"""Relative; numbers that should be equal differ by rounding where shifts are added up."""


def unify(gauge: Tensor, axes: frozenset[int]) -> Tensor:
    """One number along each of ``axes``.

    Raises:
        NotSeparable: they differ.
    """
    for axis in axes:
        if gauge.shape[axis] == 1:
            continue
        unknown = gauge.isnan()
        low = gauge.masked_fill(unknown, torch.inf).amin(axis, keepdim=True)
        high = gauge.masked_fill(unknown, -torch.inf).amax(axis, keepdim=True)
        if bool((high - low > _TOLERANCE * high.abs().clamp(min=1)).any()):
            raise NotSeparable("its elements would have to be changed in different ways")
        gauge = low.masked_fill(low.isinf(), torch.nan)
    return gauge


def compact(gauge: Tensor) -> Tensor:
    """The same numbers, of size one along every axis that they do not vary along."""
    for axis, size in enumerate(gauge.shape):
        if size == 1:
            continue
        first = gauge.narrow(axis, 0, 1)
        same = gauge == first
        if not bool(same.all()):
            same |= gauge.isnan() & first.isnan()
            if not bool(same.all()):
                continue
        gauge = first
    return gauge


def merge(known: Tensor, more: Tensor) -> Tensor:
    """Both together.

    Raises:
        NotSeparable: they contradict each other.
    """
    if differ(known, more):
        raise NotSeparable("its readers would have to change it in different ways")
    return compact(torch.where(known.isnan(), more, known))


def differ(first: Tensor, second: Tensor) -> bool:
    """Whether two gauges contradict each other where both are determined."""
    return bool(((first - second).abs() > _TOLERANCE * first.abs().clamp(min=1)).any())


def on_axis(value: Value, axis: int, numbers: Tensor) -> Tensor:
    """``numbers`` as a gauge of ``value`` that varies along ``axis`` alone."""
    shape = [1] * len(value.shape)
    shape[axis] = -1
    return numbers.reshape(shape)


def along(gauge: Tensor, axis: int) -> Tensor:
    """The numbers of a gauge along ``axis``.

    Raises:
        NotSeparable: it varies along another one.
    """
    return unify(gauge, frozenset(range(gauge.dim())) - {axis}).flatten()
