"""The batch sizes that an export is made and checked with."""

from __future__ import annotations

import torch

from deployfold.spec import InputSpec

BATCH_AXIS = "batch"
"""The name of the dynamic axis in every exported graph."""


def is_dynamic(spec: InputSpec) -> bool:
    """Whether more than one batch size was asked for."""
    return spec.dynamic_batch is not None and spec.dynamic_batch.min < spec.dynamic_batch.max


def rebatch(inputs: tuple[torch.Tensor, ...], batch: int) -> tuple[torch.Tensor, ...]:
    """The same inputs with ``batch`` samples: repeated in turn, or cut; scalars stay."""
    return tuple(
        value[torch.arange(batch, device=value.device) % value.shape[0]] if value.ndim else value
        for value in inputs
    )


def tracing_batch(spec: InputSpec) -> int:
    """A batch size to trace a dynamic export with: at least 2, since torch specialises 0 and 1."""
    assert spec.dynamic_batch is not None
    return max(2, spec.dynamic_batch.min)


def checking_inputs(
    inputs: tuple[torch.Tensor, ...], spec: InputSpec
) -> tuple[tuple[torch.Tensor, ...], ...]:
    """The inputs that an export is compared on.

    Those given, and for a dynamic batch the same with a second batch size (1 where it is allowed,
    since a graph that baked in its batch most often gives itself away there).
    """
    if not is_dynamic(spec):
        return (inputs,)
    dynamic = spec.dynamic_batch
    assert dynamic is not None
    given = next((value.shape[0] for value in inputs if value.ndim), 1)
    allowed = [
        size
        for size in (1, 2, 3, dynamic.min, dynamic.min + 1)
        if dynamic.min <= size <= dynamic.max
    ]
    first = given if dynamic.min <= given <= dynamic.max else allowed[-1]
    second = next(size for size in allowed if size != first)
    return rebatch(inputs, first), rebatch(inputs, second)
