"""Folding models in half precision in float32, because CPUs compute float32 many times faster.

Measured on an AMD EPYC without half-precision arithmetic: ResNet-18 takes 8 times as long in
float16 or bfloat16, and a detector at 640 × 640 does not end within minutes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from .attempts import Attempt, fold_and_prove
from .modules import copy_modules, map_tensors, named_tensors
from .proof.compare import Difference, difference, run_model
from .result import FoldResult
from .rewrite.weights import check_range

_NOTE = (
    "The {dtype} model was folded and proved in float32, which holds its weights exactly. The "
    "folded weights were then rounded to {dtype}, which moves the outputs by {moved:.1e} "
    "(relative, computed in float32)."
)


def half_on_cpu(model: nn.Module) -> torch.dtype | None:
    """float16 or bfloat16 if every float parameter is that and on the CPU, else ``None``."""
    parameters = [one for one in model.parameters() if one.is_floating_point()]
    kinds = {(one.dtype, one.device.type) for one in parameters}
    dtype, device = kinds.pop() if len(kinds) == 1 else (torch.float32, "")
    return dtype if dtype in (torch.float16, torch.bfloat16) and device == "cpu" else None


def fold_in_float32(model: nn.Module, attempt: Attempt, dtype: torch.dtype) -> FoldResult | None:
    """Fold a float32 copy of a model in ``dtype``, and round the folded weights to ``dtype``.

    The float32 copy holds every weight exactly, so a proof on the copy is a proof of the fold. The
    rounded weights are then compared with the original's on all given inputs, in float32: nothing
    runs in half precision.

    Returns:
        ``None`` where the model must be folded in ``dtype``, because its code computes in it.

    Raises:
        FoldError: a folded weight exceeds the range of ``dtype``.
    """
    try:
        wide = replace(
            attempt,
            traced=tuple(map(in_float32, attempt.traced)),
            compared=tuple(map(in_float32, attempt.compared)),
        )
        single = copy_modules(model, share_parameters=False).float()
        result = fold_and_prove(single, wide)
    except Exception:  # folding in half precision hits and reports the same error
        return None
    folded = _rounded(result.model, model, dtype)
    rounded = copy_modules(folded, share_parameters=False).float()
    worst = Difference(0.0, 0.0)
    for item in (*wide.traced, *wide.compared):
        found = difference(run_model(single, item), run_model(rounded, item))
        worst = max(worst, found, key=lambda one: one.relative)
    verification = replace(
        result.verification,
        native_relative=worst.relative,
        native_max_abs=worst.absolute,
        outputs=(),
    )
    note = _NOTE.format(dtype=str(dtype).removeprefix("torch."), moved=worst.relative)
    return replace(result, model=folded, verification=verification, notes=(*result.notes, note))


def in_float32(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same inputs with every tensor in half precision converted to float32."""
    half = (torch.float16, torch.bfloat16)
    values: tuple[Any, ...] = map_tensors(
        inputs, lambda tensor: tensor.float() if tensor.dtype in half else tensor
    )
    return values


def _rounded(folded: nn.Module, model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """``folded`` in the dtypes of ``model``; tensors that only ``folded`` has are in ``dtype``."""
    given = {name: tensor.dtype for name, tensor in named_tensors(model)}
    for name, tensor in named_tensors(folded):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(given.get(name, dtype))
            if isinstance(tensor, nn.Parameter):  # a buffer may hold infinity: masks do
                check_range(tensor, name)
    return folded
