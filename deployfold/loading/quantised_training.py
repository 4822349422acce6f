"""Models that torch.ao prepared for quantisation-aware training.

Their fake-quantise modules round weights and activations to a grid, and their observers move the
grid at every inference, also in evaluation mode. :func:`frozen` stops the observers, and
:func:`exportable` brings the grids into the form that TensorRT has: int8 without a zero point.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from deployfold.errors import LoadError
from deployfold.util.tensors import is_finite

_HINT = (
    "TensorRT has int8 with the zero point 0 and one scale for an activation: train with "
    "torch.per_tensor_symmetric, or with reduce_range=True, for activations, and with "
    "torch.per_channel_symmetric for weights."
)
_LOW, _HIGH = -128, 127


def is_fake_quantise(layer: nn.Module) -> bool:
    """Whether a module is one of torch.ao's fake-quantise modules, of any kind."""
    return any(".fake_quantize" in kind.__module__ for kind in type(layer).__mro__)


def in_training(module: nn.Module) -> bool:
    """Whether a model has fake-quantise modules."""
    return any(is_fake_quantise(layer) for layer in module.modules())


def frozen(module: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy of a model in evaluation mode whose scales stay as they are; notes.

    Raises:
        LoadError: a fake-quantise module is of a kind that is not known.
    """
    from torch.ao.quantization import FakeQuantize, ObserverBase

    module = copy.deepcopy(module).eval()
    running = 0
    for name, layer in list(module.named_modules()):
        if isinstance(layer, FakeQuantize) and not layer.is_dynamic:
            running += int(layer.observer_enabled[0])
            layer.disable_observer()
        elif is_fake_quantise(layer):
            raise LoadError(
                f"{name or 'The model'} is a fake-quantise module of a kind that is not known: "
                f"{type(layer).__name__}.",
                hint="Export the model to ONNX with torch.onnx.export(model.eval(), ..., "
                "dynamo=False), and build that file: its scales are kept.",
            )
        elif isinstance(layer, ObserverBase) and not is_fake_quantise(
            module.get_submodule(name.rpartition(".")[0])
        ):
            module.set_submodule(name, nn.Identity())
    notes = [f"{running} observers still ran: their last scales are kept."] if running else []
    return module, tuple(notes)


def exportable(module: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy of a :func:`frozen` model with the same codes, on grids that TensorRT has; notes.

    Outside an ONNX export the copy rounds no activation, so that a comparison of the graph does not
    depend on values that lie between two codes.

    Raises:
        LoadError: TensorRT has no such grid, or a scale was never set. The latter is raised when
            the model runs, because a fake-quantise module that nothing calls has none.
    """
    module, notes = copy.deepcopy(module), list[str]()
    with torch.no_grad():
        for name, layer in module.named_modules():
            if (given := _of_weight(layer)) is not None:
                layer.weight_fake_quant = _on_grid(f"{name}.weight", layer, given, notes)
        for name, layer in list(module.named_modules(remove_duplicate=False)):
            if is_fake_quantise(layer):
                module.set_submodule(name, _activation(name, layer))
    return module, tuple(notes)


def sized_grids(module: nn.Module) -> None:
    """Give the scales of a weight's channels their number of elements, in place.

    A model that was prepared and has seen no data has one element there, and the state dict of a
    trained one has one for each channel.
    """
    layer: Any
    for layer in module.modules():
        given = _of_weight(layer)
        if given is None or not given.is_per_channel or _is_set(given):
            continue
        channels = (layer.weight.shape[given.ch_axis],)
        for owner, fill in ((given, 1.0), (given.activation_post_process, torch.inf)):
            for name in ("scale", "zero_point", "min_val", "max_val"):
                if isinstance(tensor := getattr(owner, name, None), Tensor):
                    setattr(owner, name, tensor.new_full(channels, fill))


def _of_weight(layer: Any) -> Any:
    """The fake-quantise module of a layer's weight; ``None`` without one."""
    given = getattr(layer, "weight_fake_quant", None)
    return given if isinstance(given, nn.Module) and is_fake_quantise(given) else None


class _WeightGrid(nn.Module):
    """Rounds a weight to codes with one scale, or one for each channel of an axis."""

    def __init__(self, scale: Tensor, axis: int | None) -> None:
        super().__init__()
        self.axis = axis
        self.scale = nn.Buffer(scale.clone())
        self.zero = nn.Buffer(torch.zeros_like(scale, dtype=torch.int32))

    def forward(self, weight: Tensor) -> Tensor:
        """The rounded weight."""
        if self.axis is None:
            return torch.fake_quantize_per_tensor_affine(weight, self.scale, self.zero, _LOW, _HIGH)
        return torch.fake_quantize_per_channel_affine(
            weight, self.scale, self.zero, self.axis, _LOW, _HIGH
        )


def _on_grid(name: str, layer: Any, given: Any, notes: list[str]) -> nn.Module:
    """Put a weight onto its grid, so that every rounding gives the same codes; return the grid.

    A layer that was fused with a BatchNorm rounds the weight times the factor of the BatchNorm.
    FusedMovingAvgObsFakeQuantize gives a symmetric channel whose weights have one sign the zero
    point -128 or 127, against what its observer says and torch.ao's conversion takes.
    """
    if not given.fake_quant_enabled[0]:
        return nn.Identity()
    if not _is_set(given):
        raise _never_set(name)
    weight, norm, factor = layer.weight, getattr(layer, "bn", None), torch.ones(())
    if norm is not None:
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        factor = factor.reshape(-1, *[1] * (weight.dim() - 1))
    axis = given.ch_axis if given.is_per_channel else None
    shifted = (
        given.zero_point.reshape([-1 if index == axis else 1 for index in range(weight.dim())]) != 0
    )
    scale, zero = given.scale, given.zero_point
    if shifted.any():
        other, zeros = given.calculate_qparams()
        scale, zero = torch.where(zero == 0, scale, other), torch.where(zero == 0, zero, zeros)
        notes.append(
            f"{name}: {int(shifted.sum())} of {shifted.numel()} channels were trained with a zero "
            "point, and are rounded with the scale that torch.ao.quantization.convert takes."
        )
    grid = _WeightGrid(scale, axis)
    rounded = torch.where(shifted, grid(weight * factor), given(weight * factor))
    if zero.any() or not torch.equal(grid(rounded), rounded):
        raise LoadError(f"{name} has codes that int8 with the zero point 0 lacks.", hint=_HINT)
    weight.copy_(torch.where(factor == 0, weight, rounded / factor))
    return grid


class _ActivationGrid(nn.Module):
    """Rounds an activation, in an ONNX export alone; clamps it to ``bounds`` if there are any."""

    def __init__(self, scale: float, bounds: tuple[float, float] | None) -> None:
        super().__init__()
        self.scale, self.bounds = scale, bounds

    def forward(self, x: Tensor) -> Tensor:
        """The rounded activation."""
        if self.bounds is not None:
            x = x.clamp(*self.bounds)
        if not torch.onnx.is_in_onnx_export():
            return x
        return torch.fake_quantize_per_tensor_affine(x, self.scale, 0, _LOW, _HIGH)


class _NeverSet(nn.Module):
    """Stands for a fake-quantise module without a scale."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, _: Tensor) -> Tensor:
        """Refuse.

        Raises:
            LoadError: always.
        """
        raise _never_set(self.name)


def _activation(name: str, given: Any) -> nn.Module:
    """The module that replaces an activation's fake-quantise module.

    Codes from ``low`` to ``high`` with the zero point z are codes from ``low - z`` to ``high - z``
    with the zero point 0. If int8 has more codes than these, values are clamped first.
    """
    if not given.fake_quant_enabled[0]:
        return nn.Identity()
    if not _is_set(given):
        return _NeverSet(name)
    if given.is_per_channel:
        raise LoadError(f"{name} has one scale for each channel of an activation.", hint=_HINT)
    limits, zero = given.activation_post_process, int(given.zero_point[0])
    low, high = limits.quant_min - zero, limits.quant_max - zero
    if not _LOW <= low <= high <= _HIGH:
        raise LoadError(
            f"{name} rounds an activation to codes from {limits.quant_min} to {limits.quant_max} "
            f"with the zero point {zero}.",
            hint=_HINT,
        )
    scale = float(given.scale[0])
    whole = (low, high) == (_LOW, _HIGH)
    return _ActivationGrid(scale, None if whole else (low * scale, high * scale))


def _is_set(given: Any) -> bool:
    """Whether a fake-quantise module has a scale from data, and not the initial one."""
    least = getattr(given.activation_post_process, "min_val", None)
    return least is None or (least.numel() > 0 and is_finite(least))


def _never_set(name: str) -> LoadError:
    return LoadError(
        f"The fake-quantise module of {name} has seen no data, so its scale is not known.",
        hint="Run the prepared model in training mode on data, and save it again.",
    )
