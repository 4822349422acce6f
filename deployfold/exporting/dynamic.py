"""Makes the inputs with which an export with dynamic axes is traced and checked."""

from __future__ import annotations

import math

import torch

from deployfold.config.inputs import InputSpec
from deployfold.config.optimization_profiles import Shape

BATCH_AXIS = "batch"
"""The name of a dynamic first axis in every exported graph."""


def is_dynamic(spec: InputSpec) -> bool:
    """Whether an input has a dynamic axis."""
    return any(spec.dynamic_axes)


def resized(inputs: tuple[torch.Tensor, ...], shapes: list[Shape]) -> tuple[torch.Tensor, ...]:
    """The same inputs in other shapes: repeated or cut along each axis."""
    values = []
    for value, shape in zip(inputs, shapes, strict=True):
        for axis, size in enumerate(shape):
            if value.shape[axis] != size:
                index = torch.arange(size, device=value.device) % value.shape[axis]
                value = value.index_select(axis, index)
        values.append(value)
    return tuple(values)


def tracing_inputs(inputs: tuple[torch.Tensor, ...], spec: InputSpec) -> tuple[torch.Tensor, ...]:
    """Inputs for tracing a dynamic export, without dynamic axes of size 0 or 1.

    torch treats these sizes as constants.
    """
    shapes = []
    for value, axes in zip(inputs, spec.dynamic_axes, strict=True):
        shape = list(value.shape)
        for axis, (low, high) in axes.items():
            given = low if axis == 0 or not low <= shape[axis] <= high else shape[axis]
            shape[axis] = max(2, given)
        shapes.append(tuple(shape))
    return resized(inputs, shapes)


def checking_inputs(
    inputs: tuple[torch.Tensor, ...], spec: InputSpec
) -> tuple[tuple[torch.Tensor, ...], ...]:
    """The inputs for comparing an export with the model.

    The result has the given inputs and, for dynamic axes, a copy with another size along each
    dynamic axis. The batch size of the copy is 1 if allowed, because a graph with a constant batch
    usually fails there. The other sizes are the profiles' smallest ones that differ.
    """
    if not is_dynamic(spec):
        return (inputs,)
    given = [tuple(value.shape) for value in inputs]
    points = [
        [getattr(shapes, bound) for shapes in profile]
        for profile in spec.profiles
        for bound in ("min", "opt", "max")
    ]
    points.sort(key=lambda shapes: sum(map(math.prod, shapes)))
    point = max(points, key=lambda shapes: _differing(given, shapes, spec))  # the first of equals
    first, second = [list(shape) for shape in given], [list(shape) for shape in point]
    for index, axes in enumerate(spec.dynamic_axes):
        for axis, (low, high) in axes.items():
            size = given[index][axis]
            if axis == 0:
                first[index][0], second[index][0] = _batches(size, low, high)
            elif second[index][axis] == size:
                second[index][axis] = high if size != high else low
    return tuple(resized(inputs, [tuple(shape) for shape in shapes]) for shapes in (first, second))


def _differing(given: list[Shape], shapes: list[Shape], spec: InputSpec) -> int:
    return sum(
        given[index][axis] != shapes[index][axis]
        for index, axes in enumerate(spec.dynamic_axes)
        for axis in axes
        if axis > 0
    )


def _batches(given: int, low: int, high: int) -> tuple[int, int]:
    allowed = [size for size in (1, 2, 3, low, low + 1) if low <= size <= high]
    first = given if low <= given <= high else allowed[-1]
    return first, next(size for size in allowed if size != first)
