"""Telling a wrong fold from a model that magnifies rounding.

Some models have outputs that change by far more than rounding when a weight changes in its last
bit: detectors sort boxes by scores that are nearly equal, and deep untrained networks amplify small
differences. Folding rounds once more, so the outputs of such models move without a wrong fold.

The original therefore runs again with every weight changed by a few units in the last place. A
module is wrong if folding changes its output by much more than these changes do. A module is
ill-conditioned if these changes move its output as far as folding does. Between a layer and the
BatchNorm that was folded into the layer, the output must change: to a per-channel affine image of
the original output. A wrong fold shows behind the next layer, which mixes the channels, or in the
output of the model, which must not change at all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deployfold.folding.modules import copy_modules, tensors_in
from deployfold.folding.plan import Plan
from deployfold.folding.rewrite.rewrite import apply

from .compare import InFloat64, difference, double_inputs, run_model

_ULPS = 8.0
"""The size of a perturbation, in units in the last place.

Folding rounds each weight two or three times, by half a unit each.
"""

_TRIALS = 3
"""The number of perturbed runs; a nearly equal pair need not change places in every run."""

_FIT = 1e-6
"""The largest relative residual of an affine fit; ill-conditioning may disturb the fit."""

_MARGIN = 100.0
"""How many times farther than a perturbation folding may move an output; a wrong fold: 1e10."""


def first_departure(
    original: nn.Module, plan: Plan, inputs: tuple[Any, ...], tolerance: float
) -> tuple[str | None, float]:
    """Find the first module that folding changes by more than the model's conditioning allows.

    The modules are compared in float64, in the order in which they finish.

    Args:
        tolerance: the relative difference that is always allowed.

    Returns:
        A module's path, ``the output`` for the model itself, or ``None``; and how far the model's
        conditioning allows folding to move its output. If the model does not compute the same
        twice, the path is that of the first module that does not.
    """
    wide = double_inputs(inputs)
    reference = copy_modules(original, share_parameters=False).double()
    expected = _module_outputs(reference, wide)
    again = _module_outputs(reference, wide)
    for path, outputs in expected.items():
        if path not in again or difference(outputs, again[path]).relative > tolerance:
            # The module differs from itself, so no proof is possible.
            return path or "the output", tolerance
    moved = dict.fromkeys(expected, 0.0)
    for seed in range(_TRIALS):
        shaken = _module_outputs(perturb(reference, seed), wide)
        _restore(reference, original)
        for path, outputs in expected.items():
            if path in shaken:
                moved[path] = max(moved[path], difference(outputs, shaken[path]).relative)
            else:
                moved[path] = float("inf")
    actual = _module_outputs(apply(plan, reference), wide)
    limits = {path: max(tolerance, _MARGIN * distance) for path, distance in moved.items()}
    for path, outputs in expected.items():
        if path not in actual or difference(outputs, actual[path]).relative <= limits[path]:
            continue
        if not path or not all(map(_is_affine_image, outputs, actual[path])):
            return path or "the output", limits[""]
    return None, limits[""]


def _is_affine_image(before: Tensor, after: Tensor) -> bool:
    """Whether ``after`` is ``scale * before + shift`` for each position on some axis."""
    if before.shape != after.shape or not before.is_floating_point():
        return False
    for axis in range(before.dim()):
        x, y = (t.movedim(axis, 0).flatten(1) for t in (before, after))
        x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
        scale = (x * y).sum(1) / x.square().sum(1).clamp_min(torch.finfo(torch.float64).tiny)
        if bool((y - scale[:, None] * x).abs().max() <= _FIT * y.abs().max()):
            return True
    return False


def perturb(model: nn.Module, seed: int) -> nn.Module:
    """Change every float64 parameter, in place, by up to a few units in the last place."""
    generator = torch.Generator().manual_seed(seed)
    epsilon = _ULPS * torch.finfo(torch.float64).eps
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dtype is torch.float64:
                noise = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.mul_(1.0 + epsilon * (2.0 * noise.to(parameter.device) - 1.0))
    return model


def _restore(model: nn.Module, original: nn.Module) -> None:
    """Restore the parameters of ``model`` from ``original``; float64 holds them exactly."""
    with torch.no_grad():
        for parameter, before in zip(model.parameters(), original.parameters(), strict=True):
            parameter.copy_(before)


def _module_outputs(model: nn.Module, inputs: tuple[Any, ...]) -> dict[str, list[Tensor]]:
    """The outputs of every module, in the order the modules finished."""
    outputs: dict[str, list[Tensor]] = {}

    def record(path: str) -> Any:
        def hook(module: nn.Module, arguments: Any, result: Any) -> None:
            outputs[path] = [tensor.clone() for tensor in tensors_in(result)]

        return hook

    handles = [
        module.register_forward_hook(record(path))
        for path, module in model.named_modules()
        if not isinstance(module, torch.jit.ScriptModule)  # takes no hooks
    ]
    try:
        with InFloat64():
            run_model(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return outputs
