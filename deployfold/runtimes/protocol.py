"""What every runtime looks like to the measurement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch

from .times import DeviceTimes

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Inputs: TypeAlias = Sequence["np.ndarray[Any, np.dtype[Any]] | torch.Tensor"]


Step: TypeAlias = Callable[[], "DeviceTimes | None"]
"""One inference on inputs prepared before. ``None``: time it with the host's clock."""


class Runner(Protocol):
    """An artifact in its runtime.

    ``load``, then ``run`` or ``prepare`` any number of times, then ``close``. ``close`` may be
    called at any time and more than once. A runner may have ``notes``: sentences to be said of its
    numbers, known when it is loaded.
    """

    def load(self) -> None:
        """Read the artifact and make it ready to run.

        Raises:
            MeasureError: the artifact is missing or broken, or cannot run on this machine.
        """

    def prepare(self, inputs: Inputs) -> Step:
        """Bring ``inputs`` into the form the runtime wants, outside of what is timed.

        The runner takes private copies, so a model that writes into its inputs disturbs no other.

        Raises:
            MeasureError: the runtime does not take these inputs.
        """

    def run(self, inputs: Inputs) -> tuple[Array, ...]:
        """One inference; every output tensor as a numpy array, in the order the model gives them.

        Outputs that numpy has no dtype for (bfloat16, float8) come as float32.

        Raises:
            MeasureError: the inference failed.
        """

    def close(self) -> None:
        """Give the memory back."""


def to_tensors(inputs: Inputs) -> tuple[torch.Tensor, ...]:
    """Private CPU copies of ``inputs`` as torch tensors, same shapes and dtypes."""
    return tuple(
        value.detach().cpu().clone(memory_format=torch.contiguous_format)
        if isinstance(value, torch.Tensor)
        else torch.from_numpy(np.array(value, order="C"))
        for value in inputs
    )


def to_array(tensor: torch.Tensor) -> Array:
    """A numpy copy of ``tensor``; float32 where numpy lacks the dtype."""
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point() and tensor.dtype not in (
        torch.float16,
        torch.float32,
        torch.float64,
    ):
        tensor = tensor.float()
    array: Array = np.array(tensor.resolve_conj().resolve_neg().numpy())
    return array
