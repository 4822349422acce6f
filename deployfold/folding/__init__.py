"""Folding: every BatchNorm that mathematics allows, in eager PyTorch, and a reason for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from deployfold.errors import DeployfoldError, FoldError

from .graph.find_affine_layers import count_batchnorms
from .graph.trace import trace
from .modules import copy_modules, uncompiled
from .plan import Folded, Left
from .proof.compare import another_batch, random_like, run_model
from .proof.isolate import keep_needed
from .proof.verify import NotTheSame, Verification, verify
from .result import FoldResult
from .rewrite.rewrite import Zero, apply
from .rules.match import match
from .torchscript import fold_torchscript

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

_TRACED_ALL = (
    "The model does something else at another batch size, on other data or in another shape, so "
    "it was traced there as well."
)
_NOT_MERGED = "Parallel branches were not merged: the model's forward then fails"


@uncompiled()
def fold(
    model: nn.Module,
    example_inputs: tuple[Any, ...],
    *,
    reparam: bool = True,
    more_inputs: Sequence[tuple[Any, ...]] = (),
    check_inputs: Sequence[tuple[Any, ...]] = (),
) -> FoldResult:
    """Fold every BatchNorm of ``model`` that can be folded exactly.

    The model runs on ``example_inputs``, and on each of ``more_inputs``, to find out which layer
    feeds which; what these runs do not reach is not touched. The result is compared with the
    original on all of them, on ``check_inputs`` and on random inputs of another batch size, in
    float64 and in its own dtype. Where it differs, because the code goes by the batch size or by
    the data, the inputs that it was only compared on are traced as well. If that does not help,
    the BatchNorms that make the difference stay.

    Args:
        model: in evaluation mode; it is never changed. TorchScript is folded in its graph.
        example_inputs: the arguments of one forward call, tensors on the model's device.
        reparam: also merge parallel linear branches (RepVGG) and fold constant scales (LayerScale).
        more_inputs: further argument tuples, for a model that takes other paths on other data.
        check_inputs: further argument tuples of shapes that the model will meet.

    Raises:
        FoldError: the forward fails, or the folded model is not the same function.
    """
    if isinstance(model, torch.jit.ScriptModule):
        return fold_torchscript(model, example_inputs, more_inputs=(*more_inputs, *check_inputs))
    _check_foldable(model)
    if not isinstance(example_inputs, tuple):
        example_inputs = (example_inputs,)
    traced = [example_inputs, *more_inputs]
    checked, notes = _checked(model, example_inputs, check_inputs)
    asked = (reparam, notes)
    while True:
        try:
            return _fold_and_verify(model, traced, checked, reparam, notes)
        except Exception as error:
            wrong = isinstance(error, DeployfoldError)
            if reparam and not wrong:
                # Code that looks inside a merged branch is rare; plain folding still serves it.
                reparam, notes = False, (*notes, f"{_NOT_MERGED} ({error}).")
            elif checked:
                traced, checked, notes = [*traced, *checked], [], (*notes, _TRACED_ALL)
            elif wrong and not isinstance(error, NotTheSame):
                raise
            else:
                result = _fold_the_rest(model, traced, *asked)
                if result is not None:
                    return result
                if wrong:
                    raise
                raise FoldError(
                    f"The folded model's forward fails: {type(error).__name__}: {error}",
                    hint="Its code seems to look inside a BatchNorm that is gone. "
                    "Please report it.",
                ) from error


def count_parameters(model: nn.Module) -> int:
    """The number of scalars in all parameters of ``model``, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _fold_and_verify(
    model: nn.Module,
    samples: Sequence[tuple[Any, ...]],
    compared: Sequence[tuple[Any, ...]],
    reparam: bool,
    notes: tuple[str, ...],
    keep: frozenset[str] = frozenset(),
) -> FoldResult:
    """Fold what the traced ``samples`` allow, and compare on them and on ``compared``."""
    plan = match(trace(model, *samples), model, reparam=reparam, keep=keep)
    result = apply(plan, copy_modules(model, share_parameters=False))
    # A forward that caches goes by what it met first: every run gets a copy that met nothing.
    verification = verify(model, copy_modules(result), plan, [*samples, *compared])
    return FoldResult(
        model=result,
        folded=plan.folded,
        left=plan.left,
        parameters_before=count_parameters(model),
        parameters_after=count_parameters(result),
        batchnorms_before=count_batchnorms(model),
        batchnorms_after=count_batchnorms(result),
        verification=verification,
        notes=notes,
    )


def _fold_the_rest(
    model: nn.Module,
    samples: Sequence[tuple[Any, ...]],
    reparam: bool,
    notes: tuple[str, ...],
) -> FoldResult | None:
    """Fold all but the BatchNorms that the model's code looks at; None if that is not what is
    wrong."""
    plan = match(trace(model, *samples), model, reparam=reparam)

    def attempt(keep: frozenset[str]) -> FoldResult | None:
        try:
            return _fold_and_verify(model, samples, [], reparam, notes, keep)
        except Exception:
            return None

    names = [item.name for item in plan.folded if item.kind != "branch"]
    found = keep_needed(names, attempt)
    return None if found is None else found[1]


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


def _checked(
    model: nn.Module,
    example_inputs: tuple[Any, ...],
    check_inputs: Sequence[tuple[Any, ...]],
) -> tuple[list[tuple[Any, ...]], tuple[str, ...]]:
    """What the model is compared on beside what is traced: ``check_inputs``, and random numbers of
    another batch size, or of the same, if the model takes them."""
    for randomised in (random_like(another_batch(example_inputs)), random_like(example_inputs)):
        try:
            # A forward may write to its parameters; the user's model is never run.
            run_model(copy_modules(model, share_parameters=False), randomised)
        except Exception:
            continue
        return [*check_inputs, randomised], ()
    return [*check_inputs], (
        "Random inputs make the model fail, so it was compared on the given ones only.",
    )
