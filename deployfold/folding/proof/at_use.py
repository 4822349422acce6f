"""Running a model in float64 with weights that stay in their own dtype."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from deployfold.folding.modules import map_tensors, tensors_in
from deployfold.folding.rewrite.weights import Exact

from .compare import InFloat64

_CHEAP = frozenset({"size", "dim", "ndimension", "numel", "nelement", "stride", "__len__"})
"""Methods whose results do not depend on numbers."""

_BLOCK = 1 << 20
"""The elements of a linear layer's weight that are in float64 at a time: 8 MiB."""


class ParametersInFloat64(InFloat64):
    """A block in which every parameter is float64 for each function of torch that it enters.

    A float64 copy of a whole float32 model takes twice the memory of the model. Here each weight
    has a float64 copy while one function runs. A function that writes to a parameter changes that
    copy alone, so a model that does so cannot run in this block.
    """

    def __init__(self, exact: Exact) -> None:
        super().__init__()
        self._exact = exact

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        if not any(map(_is_narrow, tensors_in([args, named]))):
            return super().__torch_function__(func, types, args, kwargs)
        name = getattr(func, "__name__", "")
        if func is torch.Tensor.dtype.__get__:  # type: ignore[attr-defined]
            return torch.float64
        if name in _CHEAP:
            return func(*args, **named)
        if name == "__get__" and not torch.is_tensor(value := func(*args)):
            return value
        if func is functional.embedding and not self._exact.knows(args[1]):
            return func(*args, **named).double()  # rows alone are read, often few of many
        if func is functional.linear and len(args) > 1 and self._in_blocks(args[1]):
            return self._linear(*args, **named)
        wide = map_tensors([args, named], self._widened)
        return super().__torch_function__(func, types, *wide)

    def _widened(self, tensor: Tensor) -> Tensor:
        return self._exact.of(tensor) if _is_narrow(tensor) else tensor

    def _in_blocks(self, weight: Tensor) -> bool:
        return _is_narrow(weight) and weight.numel() > _BLOCK and not self._exact.knows(weight)

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The linear layer by blocks of outputs, whose weights take turns in one place."""
        rows = max(1, _BLOCK // max(1, weight.shape[1]))
        block = weight.new_empty((rows, weight.shape[1]), dtype=torch.float64)
        product = x.new_empty((*x.shape[:-1], len(weight)))
        for start in range(0, len(weight), rows):
            part = weight[start : start + rows]
            wide = block[: len(part)].copy_(part)
            product[..., start : start + rows] = functional.linear(x, wide)
        return product if bias is None else product + self._widened(bias)


def _is_narrow(tensor: Tensor) -> bool:
    return type(tensor) is nn.Parameter and tensor.is_floating_point() and tensor.itemsize < 8


def widen_buffers(model: nn.Module, source: nn.Module, exact: Exact) -> None:
    """Give ``model`` the buffers of ``source``, whose copy it is, in float64."""
    for own, other in zip(model.modules(), source.modules(), strict=True):
        for name, buffer in other._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                own._buffers[name] = exact.of(buffer)
