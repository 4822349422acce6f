"""Folding: fold every BatchNorm that can be folded exactly, and give a reason for each one left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from deployfold.errors import FoldError

from .attempts import Attempt, fold_and_prove
from .compiled import uncompiled
from .graph.find_affine_layers import count_batchnorms
from .half import fold_in_float32, half_on_cpu
from .modules import tensors_in
from .normalisation import Normalised
from .parametrizations import baked
from .plan import Folded, Left
from .proof.verify import Verification
from .reestimate import reestimated
from .result import FoldResult, count_parameters
from .rewrite.rewrite import Zero
from .torchscript import fold_torchscript

__all__ = [
    "FoldResult",
    "Folded",
    "Left",
    "Normalised",
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
    norm_affine: bool = True,
    keep_parametrizations: bool = False,
    reestimate_bn: Sequence[tuple[Any, ...]] = (),
    more_inputs: Sequence[tuple[Any, ...]] = (),
    check_inputs: Sequence[tuple[Any, ...]] = (),
) -> FoldResult:
    """Fold every BatchNorm of ``model`` that can be folded exactly, and prove the result.

    The model is traced on ``example_inputs`` and on each of ``more_inputs`` to find out which layer
    feeds which. Layers that these runs do not reach stay as they are. The model is also tried with
    another batch size and with heights, widths and lengths one larger and one smaller. If the model
    accepts such a shape and runs other operators there, the shape is traced as well. The result is
    compared with the original on all of these inputs and on ``check_inputs``, in float64 and in the
    model's own dtype. If the result differs, the inputs used only for comparison are traced as
    well. If the result still differs, the BatchNorms that make the difference stay. If the forward
    branches on values in its inputs, the proof does not cover other values, and the result's notes
    say so.

    Args:
        model: a model in evaluation mode, which stays unchanged. TorchScript folds in its graph.
        example_inputs: the arguments of one forward call, with tensors on the model's device.
        reparam: also merge parallel linear branches (RepVGG) and fold constant scales (LayerScale).
        norm_affine: also fold the affine parameters of LayerNorm, RMSNorm, GroupNorm and
            InstanceNorm into the layers behind them; the normalisation stays.
        keep_parametrizations: leave weights that pruning, weight_norm and the like compute at each
            call; otherwise the computed weights are stored first.
        reestimate_bn: argument tuples of real samples, at least 8. The running statistics of every
            BatchNorm become those of these samples before folding; see :mod:`.reestimate`. The
            result then computes another function than ``model``, and a note says how far it is.
        more_inputs: further argument tuples, for a model that takes other paths on other data.
        check_inputs: further argument tuples, of other shapes that the model will be used with.

    Returns:
        The folded model, the folded and remaining BatchNorms, and the verification.

    Raises:
        FoldError: the forward fails, the folded model computes another function, or there are no
            statistics to estimate.
    """
    if not isinstance(example_inputs, tuple):
        example_inputs = (example_inputs,)
    _check_inputs([example_inputs, *more_inputs, *check_inputs])
    changed: tuple[str, ...] = ()
    if reestimate_bn:
        _check_foldable(model)
        new = reestimated(model, reestimate_bn)
        model, changed = new.model, (new.note,)
    if isinstance(model, torch.jit.ScriptModule):
        return fold_torchscript(model, example_inputs, more_inputs=(*more_inputs, *check_inputs))
    _check_foldable(model)
    traced, compared = (example_inputs, *more_inputs), tuple(check_inputs)
    attempt = Attempt(traced, compared, reparam=reparam, norm_affine=norm_affine)
    with uncompiled(model):
        stored, notes = (model, ()) if keep_parametrizations else baked(model, example_inputs)
        half = half_on_cpu(stored)
        single = fold_in_float32(stored, attempt, half) if half else None
        result = single or fold_and_prove(stored, attempt)
    before = count_parameters(model)
    return replace(result, parameters_before=before, notes=(*changed, *notes, *result.notes))


def _check_inputs(inputs: Sequence[tuple[Any, ...]]) -> None:
    for item in inputs:
        for tensor in tensors_in(item):
            if tensor.numel() == 0:
                raise FoldError(
                    f"An input of shape {list(tensor.shape)} holds no number, so nothing can be "
                    "proved on it.",
                    hint="Give an input with at least one sample, such as --input 1x3x224x224.",
                )


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
