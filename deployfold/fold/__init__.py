"""Folding: every BatchNorm that mathematics allows, in eager PyTorch, and a reason for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from deployfold.errors import DeployfoldError, FoldError

from .compare import random_like
from .match import match
from .modules import copy_modules
from .plan import Folded, Left, Plan
from .result import FoldResult
from .rewrite import Zero, apply
from .torchscript import fold_torchscript
from .trace import trace
from .units import count_batchnorms
from .verify import Verification, verify

__all__ = [
    "FoldResult",
    "Folded",
    "Left",
    "Verification",
    "Zero",
    "count_batchnorms",
    "count_parameters",
    "fold",
    "fold_torchscript",
]


def fold(
    model: nn.Module,
    example_inputs: tuple[Any, ...],
    *,
    reparam: bool = True,
    more_inputs: Sequence[tuple[Any, ...]] = (),
) -> FoldResult:
    """Fold every BatchNorm of ``model`` that can be folded exactly.

    The model runs on ``example_inputs``, and on each of ``more_inputs``, to find out which layer
    feeds which; what these runs do not reach is not touched. The result is compared with the
    original on all of them, and on random inputs of the same shapes, in float64 and in its own
    dtype.

    Args:
        model: in evaluation mode; it is never changed. TorchScript is folded in its graph.
        example_inputs: the arguments of one forward call, tensors on the model's device.
        reparam: also merge parallel linear branches (RepVGG) and fold constant scales (LayerScale).
        more_inputs: further argument tuples, for a model that takes other paths on other data.

    Raises:
        FoldError: the forward fails, or the folded model is not the same function.
    """
    if isinstance(model, torch.jit.ScriptModule):
        return fold_torchscript(model, example_inputs, more_inputs=more_inputs)
    _check_foldable(model)
    if not isinstance(example_inputs, tuple):
        example_inputs = (example_inputs,)
    notes: list[str] = []
    # A forward may write to its module, if only to a cache; the user's model is never run.
    original = copy_modules(model, share_parameters=False)
    inputs = _comparable(original, example_inputs, more_inputs, notes)
    try:
        result, plan = _fold_once(model, [example_inputs, *more_inputs], reparam)
        verification = verify(original, copy_modules(result), plan, inputs)
    except DeployfoldError:
        raise
    except Exception as error:
        if not reparam:
            raise FoldError(
                f"The folded model's forward fails: {type(error).__name__}: {error}",
                hint="Its code seems to look inside a BatchNorm that is gone. Please report it.",
            ) from error
        # Code that looks inside a merged branch is rare; plain folding still serves it.
        again = fold(model, example_inputs, reparam=False, more_inputs=more_inputs)
        note = f"Parallel branches were not merged: the model's forward then fails ({error})."
        return replace(again, notes=(*again.notes, note))
    return FoldResult(
        model=result,
        folded=plan.folded,
        left=plan.left,
        parameters_before=count_parameters(model),
        parameters_after=count_parameters(result),
        batchnorms_before=count_batchnorms(model),
        batchnorms_after=count_batchnorms(result),
        verification=verification,
        notes=tuple(notes),
    )


def count_parameters(model: nn.Module) -> int:
    """The number of scalars in all parameters of ``model``, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _fold_once(
    model: nn.Module, samples: Sequence[tuple[Any, ...]], reparam: bool
) -> tuple[nn.Module, Plan]:
    plan = match(trace(model, *samples), model, reparam=reparam)
    return apply(plan, copy_modules(model, share_parameters=False)), plan


def _check_foldable(model: nn.Module) -> None:
    for name, parameter in (*model.named_parameters(), *model.named_buffers()):
        if torch.nn.parameter.is_lazy(parameter):
            raise FoldError(
                f"{name} is not initialised yet.", hint="Run the lazy model once before folding."
            )
        if parameter.is_meta:
            raise FoldError(
                f"{name} is on the meta device and holds no numbers.",
                hint="Load the weights before folding.",
            )


def _comparable(
    original: nn.Module,
    example_inputs: tuple[Any, ...],
    more_inputs: Sequence[tuple[Any, ...]],
    notes: list[str],
) -> list[tuple[Any, ...]]:
    """The inputs to verify on: those given, and random ones if the model takes them."""
    inputs = [example_inputs, *more_inputs]
    randomised = random_like(example_inputs)
    try:
        with torch.inference_mode():
            original(*randomised)
    except Exception:
        notes.append(
            "Random inputs make the model fail, so it was compared on the given ones only."
        )
        return inputs
    return [*inputs, randomised]
