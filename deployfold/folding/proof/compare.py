"""Running two models on the same inputs and measuring how far apart their outputs are."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from deployfold.errors import FoldError, first_line
from deployfold.folding.modules import map_tensors, tensors_in
from deployfold.util.seeded import Seeded

_SPREAD = 1e-6
"""The least relative difference between the outputs of two samples of a batch.

Below it, comparing outputs would not show a wrong fold.
"""


@dataclass(frozen=True)
class Difference:
    """The difference between the outputs of two models.

    Attributes:
        absolute: the largest absolute difference.
        relative: the largest absolute difference divided by the largest finite expected output.
    """

    absolute: float
    relative: float


def random_like(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Replace every float tensor by standard-normal numbers of its shape and dtype.

    Other arguments stay as they are.
    """
    generator = torch.Generator().manual_seed(1)

    def draw(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        made = torch.randn(tensor.shape, generator=generator, dtype=torch.float32, device="cpu")
        return made.to(tensor)

    values: tuple[Any, ...] = map_tensors(inputs, draw)
    return values


def another_batch(inputs: tuple[Any, ...], times: int = 1) -> tuple[Any, ...]:
    """The same inputs with one sample; inputs that hold one sample get that sample twice.

    With ``times``, the result has so many times the samples. The batch is the first axis of the
    first tensor, and of every other tensor of the same length.
    """
    size = next((len(tensor) for tensor in tensors_in(inputs) if tensor.dim()), 0)
    other = times * size if times > 1 else 1 if size > 1 else 2

    def change(tensor: Tensor) -> Tensor:
        if size == 0 or tensor.dim() == 0 or len(tensor) != size:
            return tensor
        return tensor[:1].repeat_interleave(other, 0)

    values: tuple[Any, ...] = map_tensors(inputs, change)
    return values


def double_inputs(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same inputs with every float tensor converted to float64."""
    values: tuple[Any, ...] = map_tensors(
        inputs, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor
    )
    return values


class InFloat64(TorchFunctionMode):
    """A block in which code of this thread that asks for float32 gets float64.

    A forward may cast to float32, such as ``pictures.float() / 255``. Such a cast would round the
    float64 runs of a proof to 1e-7, or make the runs fail where the weights are float64.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        func = torch.Tensor.double if func is torch.Tensor.float else func
        wide = tuple(torch.float64 if item is torch.float32 else item for item in args)
        named = {
            key: torch.float64 if item is torch.float32 else item
            for key, item in (kwargs or {}).items()
        }
        return func(*wide, **named)


def run_model(model: nn.Module, inputs: tuple[Any, ...], *, random: bool = True) -> list[Tensor]:
    """Run ``model`` and return all tensors in its result.

    Inputs, buffers and random state stay as they are.

    Args:
        random: the forward may draw random numbers, so the run gives it the same ones each time.

    Raises:
        FoldError: the model returns no tensor.
    """
    arguments = map_tensors(inputs, torch.clone)
    seeds = Seeded() if random else nullcontext()
    with torch.no_grad(), seeds, _FrozenBuffers(model):
        result = model(*arguments)
    outputs = list(tensors_in(result))
    if not outputs:
        names = ", ".join(map(repr, result)) if isinstance(result, dict) else ""
        what = f"a dictionary with {names}" if names else f"a {type(result).__name__}"
        raise FoldError(
            f"The model returns {what} without a tensor, so there is nothing to compare.",
            hint="A forward that decodes its result to numpy or Python objects cannot be exported. "
            "Let the forward return the tensors before that step; some libraries have an argument "
            "for it, such as exportable=True.",
        )
    return outputs


def shapes_of(inputs: Sequence[Any]) -> str:
    """The shapes of the arguments, such as ``1x3x224x224``."""
    return ", ".join(
        "x".join(map(str, argument.shape)) or "scalar"
        if torch.is_tensor(argument)
        else repr(argument)
        for argument in inputs
    )


def forward_failed(inputs: Sequence[Any], error: Exception) -> FoldError:
    """The error for a user's model whose own forward fails on these inputs."""
    if isinstance(error, RecursionError):
        return FoldError(
            "The model's modules are nested too deep to be traced: its forward, with what tracing "
            f"adds, exceeds Python's recursion limit of {sys.getrecursionlimit()}.",
            hint="Raise the limit first, for example sys.setrecursionlimit(10_000).",
        )
    hint = (
        "Give the shape that the model expects with --input, and its dtype if that is not float32 "
        "(--input 1x16:int64), or real inputs with --input-data."
    )
    if any(torch.is_tensor(one) and not one.is_floating_point() for one in inputs):
        hint += (
            " An integer input without data is 0 or 1; --fix NAME=VALUE gives an option its value."
        )
    return FoldError(
        f"The model's forward pass fails on the example input {shapes_of(inputs)}: "
        f"{type(error).__name__}: {first_line(error)}",
        hint=hint,
    )


class _FrozenBuffers:
    """A block that restores every buffer afterwards: a forward pass may write to buffers."""

    def __init__(self, model: nn.Module) -> None:
        self._saved = [(buffer, buffer.clone()) for buffer in model.buffers()]

    def __enter__(self) -> None:
        return

    def __exit__(self, *exception: object) -> None:
        with torch.no_grad():
            for buffer, value in self._saved:
                buffer.copy_(value)


def rounding_limit(tensors: Iterable[Tensor]) -> float:
    """The largest relative difference that rounding explains.

    The limit is the square root of the largest epsilon among the floating-point dtypes of
    ``tensors``, or of float32 without any. A wrong result differs by more.
    """
    dtypes = {tensor.dtype for tensor in tensors if tensor.is_floating_point()} or {torch.float32}
    return math.sqrt(max(torch.finfo(dtype).eps for dtype in dtypes))


def difference(expected: list[Tensor], actual: list[Tensor]) -> Difference:
    """Measure how far ``actual`` is from ``expected``: infinitely far if the shapes differ."""
    if [item.shape for item in expected] != [item.shape for item in actual]:
        return Difference(float("inf"), float("inf"))
    absolute = relative = 0.0
    for before, after in zip(expected, actual, strict=True):
        if before.numel() == 0:
            continue
        wide = torch.complex128 if before.is_complex() else torch.float64
        before, after = before.to(wide), after.to(wide)
        difference, size = _largest(before - after), _largest(before)
        if not math.isfinite(difference):  # equal infinities and NaNs do not differ
            same = (before == after) | (before.isnan() & after.isnan())
            difference = _largest(torch.where(same, 0.0, (before - after).abs()))
            difference = float("inf") if math.isnan(difference) else difference
            size = _largest(before[before.isfinite()])
        absolute = max(absolute, difference)
        relative = max(relative, difference / size if size else difference)
    return Difference(absolute, relative)


def _largest(tensor: Tensor) -> float:
    """The largest magnitude; 0 without numbers, and NaN if one is."""
    if not tensor.numel():
        return 0.0
    if tensor.is_complex():
        return tensor.abs().max().item()
    low, high = tensor.aminmax()
    return max(-low.item(), high.item())


def insensitive(outputs: Sequence[list[Tensor]]) -> bool:
    """Whether every output is 0, or the same for all samples of a batch.

    Untrained networks give such outputs: the weights of a last layer are 0, or activations vanish
    beside a bias. Such outputs do not show a difference in the layers before.
    """
    compared = False
    for tensor in (tensor for item in outputs for tensor in item):
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        scale = float(tensor.abs().max())
        if scale == 0.0:
            compared = True
        elif tensor.ndim and tensor.shape[0] > 1:
            compared = True
            if not float((tensor - tensor[:1]).abs().max()) <= _SPREAD * scale:
                return False
    return compared


def native_limit(original: nn.Module, rounding: float) -> float:
    """The largest relative difference allowed in the model's own dtype.

    Both models round. ``rounding`` measures how much that matters for this model: the larger of the
    original's distance from float64 and the fold's distance in float64. The limit is 100 times
    ``rounding``, and at least the square root of the dtype's epsilon. The factor leaves room for
    bad luck; a wrong fold is off by about 1.
    """
    return max(rounding_limit(original.parameters()), 100 * rounding)
