"""Folding float16 models in float32, because a CPU computes float32 many times faster."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .attempts import Attempt, fold_and_prove
from .modules import copy_modules, map_tensors
from .proof.compare import difference, rounding_limit, run_model
from .result import FoldResult

_NOTE = "The float16 model was folded in float32, and the folded weights rounded to float16."


def is_half_on_cpu(model: nn.Module) -> bool:
    """Whether every float parameter of ``model`` is float16 and on the CPU."""
    parameters = [one for one in model.parameters() if one.is_floating_point()]
    return bool(parameters) and all(
        one.dtype == torch.float16 and one.device.type == "cpu" for one in parameters
    )


def fold_in_float32(model: nn.Module, attempt: Attempt) -> FoldResult | None:
    """Fold a float32 copy of a float16 model, and round the folded weights to float16.

    The float32 copy holds every weight exactly, so a proof on the copy is a proof of the fold. The
    delivered model is then compared with the original in float16 on the first input.

    Returns:
        ``None`` where the model must be folded in float16: its code computes in float16, or a
        folded weight exceeds the range of float16.
    """
    try:
        wide = replace(
            attempt,
            traced=tuple(map(_widened, attempt.traced)),
            compared=tuple(map(_widened, attempt.compared)),
        )
        result = fold_and_prove(copy_modules(model, share_parameters=False).float(), wide)
        folded = result.model.half()
        expected = run_model(model, attempt.traced[0])
        native = difference(expected, run_model(folded, attempt.traced[0]))
    except Exception:  # folding in float16 hits and reports the same error
        return None
    if not native.relative <= rounding_limit(expected):
        return None
    verification = replace(
        result.verification, native_relative=native.relative, native_max_abs=native.absolute
    )
    return replace(result, model=folded, verification=verification, notes=(*result.notes, _NOTE))


def _widened(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    def widen(tensor: Tensor) -> Tensor:
        return tensor.float() if tensor.dtype == torch.float16 else tensor

    values: tuple[Any, ...] = map_tensors(inputs, widen)
    return values
