"""Whether a model gives the same twice, as every exported file does."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deployfold.errors import ExportError, FoldError
from deployfold.fold.compare import difference
from deployfold.fold.modules import copy_modules, seeded

from .outputs import run_module

_SHOWN = 3
_HINT = "deployfold fold takes the model as it is."


def check_repeatable(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Refuse a model whose outputs depend on more than its inputs.

    A copy runs on ``inputs`` twice with the same random numbers, which shows what it keeps from one
    call to the next, and once with others. Differences below the square root of the dtype's
    epsilon, over the largest output, are taken for rounding. What cannot be copied is not checked:
    a run would change it.

    Args:
        module: in eval mode; it is not changed.
        inputs: one tensor a positional argument of ``forward``.

    Raises:
        ExportError: it keeps something, in the buffers that are named, or is random.
    """
    try:
        copied = copy_modules(module, share_parameters=False)
    except FoldError:
        return
    before = {name: buffer.clone() for name, buffer in copied.named_buffers()}
    first = _outputs(copied, inputs, seed=0)
    second = _outputs(copied, inputs, seed=0)
    if _differ(first, second):
        written = [
            name
            for name, buffer in copied.named_buffers()
            if name not in before or not torch.equal(before[name], buffer)
        ]
        more = f" and {len(written) - _SHOWN} more" if len(written) > _SHOWN else ""
        where = f" in {', '.join(written[:_SHOWN])}{more}" if written else ""
        raise ExportError(
            f"The model keeps state{where} from one call to the next, so that its outputs depend "
            "on earlier calls; an exported file has none.",
            hint=f"Make the state an input and an output of forward. {_HINT}",
        )
    if _differ(second, _outputs(copied, inputs, seed=1)):
        raise ExportError(
            "The model draws random numbers, so no exported file can give the same outputs.",
            hint="Take them out, such as a dropout that works in eval mode too, or make them an "
            f"input of forward. {_HINT}",
        )


def _outputs(
    module: torch.nn.Module, inputs: tuple[Tensor, ...], *, seed: int
) -> tuple[Tensor, ...]:
    with seeded(seed):
        outputs, _ = run_module(module, tuple(value.clone() for value in inputs))
    return tuple(value.clone() for value in outputs)  # they may be the buffers themselves


def _differ(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> bool:
    floats = {value.dtype for value in first if value.is_floating_point()} or {torch.float32}
    epsilon = max(torch.finfo(dtype).eps for dtype in floats)
    return not difference(list(first), list(second)).relative <= math.sqrt(epsilon)
