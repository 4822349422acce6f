"""Applying a plan to a model: write the new weights and remove or replace modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from deployfold.errors import DeployfoldError
from deployfold.folding.graph.layers import Layer
from deployfold.folding.plan import (
    Activation,
    Bypass,
    DropAffine,
    DropScale,
    KeepShift,
    MoveLayer,
    NotInPlace,
    Plan,
    Replacement,
    ZeroBranch,
)

from .forward import rewrite_forward
from .weights import Exact, edit_layer, edit_norm


class Zero(nn.Module):
    """The replacement for a branch that was merged into a parallel one: adds a scalar zero."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a zero of shape ``()`` with the dtype and device of ``x``."""
        return x.new_zeros(())


class Shift(nn.Module):
    """The replacement for a normalisation whose scale was folded: adds a constant."""

    def __init__(self, shift: Tensor) -> None:
        super().__init__()
        self.shift: Tensor
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x + shift``; the shift broadcasts."""
        return x + self.shift


class RewriteFault(Exception):
    """A bug in deployfold: applying the plan failed at the module ``path``."""

    def __init__(self, path: str, error: Exception) -> None:
        super().__init__(f"deployfold failed to rewrite {path} ({type(error).__name__}: {error})")
        self.path = path


@contextmanager
def _our_fault_at(path: str) -> Iterator[None]:
    try:
        yield
    except DeployfoldError:
        raise
    except Exception as error:
        raise RewriteFault(path, error) from error


def apply(plan: Plan, model: nn.Module, exact: Exact | None = None) -> nn.Module:
    """Apply ``plan`` to ``model`` in place, and return the model.

    The returned model is a new object only if the forward of the model itself had to be rewritten.
    ``exact`` gets the new numbers.

    New weights are computed in float64 and rounded once to the dtype in which they are stored.

    Raises:
        FoldError: a new weight does not fit its dtype.
        RewriteFault: deployfold fails at one of the plan's modules.
    """
    exact = exact or Exact(model)
    with torch.no_grad():
        new_biases: list[tuple[Layer, nn.Parameter]] = []
        for edit in plan.layers:
            with _our_fault_at(edit.layer.weight.rpartition(".")[0] or edit.layer.weight):
                bias = edit_layer(model, edit, exact)
            if bias is not None and edit.layer.functional:
                if edit.layer.form is not None:  # the forward adds it to the product
                    exact_bias = edit.layer.form.bias(exact.of(bias))
                    bias = edit.layer.form.bias(bias)
                    exact.keep(bias, exact_bias)
                new_biases.append((edit.layer, nn.Parameter(bias)))
            elif bias is not None:
                places = dict.fromkeys(path for path, *_ in edit.layer.calls)
                frozen = not model.get_parameter(edit.layer.weight).requires_grad
                new = nn.Parameter(bias, requires_grad=not frozen)
                for path in places:  # several modules may have one weight
                    model.get_submodule(path).bias = new
        for norm in plan.norms:
            with _our_fault_at(norm.path):
                edit_norm(model.get_submodule(norm.path), norm, exact)
    bypasses = [removal for removal in plan.removals if isinstance(removal, Bypass)]
    shifts: list[tuple[Bypass, Tensor]] = []
    replaced: dict[nn.Module, nn.Module] = {}
    for removal in plan.removals:
        if isinstance(removal, Replacement):
            module = model.get_submodule(removal.path)
            replaced[module] = _remainder(module, removal)
        elif isinstance(removal, KeepShift):
            shift = removal.shift.to(_like(model))
            exact.keep(shift, removal.shift.to(shift.device))
            if isinstance(removal.removal, Bypass):
                shifts.append((removal.removal, shift))
            else:
                module = model.get_submodule(removal.removal.path)
                replaced[module] = Shift(shift).train(module.training)
    model = _substitute(model, replaced)
    for removal in plan.removals:
        if isinstance(removal, (ZeroBranch, MoveLayer)):
            module = model.get_submodule(removal.path)
            model = _substitute(model, {module: Zero().train(module.training)})
            if isinstance(removal, MoveLayer):
                model = _substitute(model, {model.get_submodule(removal.target): module})
        elif isinstance(removal, NotInPlace):
            model.get_submodule(removal.path).inplace = False  # type: ignore[assignment]
        elif isinstance(removal, DropAffine):
            _drop_affine(model.get_submodule(removal.path))
        elif isinstance(removal, DropScale):
            _drop_scale(model.get_submodule(removal.path), removal)
    paths = {item.path for item in bypasses}
    paths |= {place for layer, _ in new_biases for place, *_ in layer.calls}
    paths |= {item.path for item, _ in shifts}
    for path in sorted(paths):
        module = model.get_submodule(path)
        with _our_fault_at(path):
            rewritten = rewrite_forward(
                module,
                bypass=[(item.op_name, item.occurrence) for item in bypasses if item.path == path],
                biases=[
                    (name, occurrence, bias)
                    for layer, bias in new_biases
                    for place, name, occurrence in layer.calls
                    if place == path
                ],
                shifts=[
                    (item.op_name, item.occurrence, shift)
                    for item, shift in shifts
                    if item.path == path
                ],
            )
        model = _substitute(model, {module: rewritten})
    return model


def _like(model: nn.Module) -> Tensor:
    """A tensor with the dtype and device in which the model computes: its first float parameter."""
    floats = (item for item in model.parameters() if item.is_floating_point())
    return next(floats, torch.zeros(()))


def _drop_affine(module: nn.Module) -> None:
    for name in ("weight", "bias"):
        if name in module._parameters:
            module.register_parameter(name, None)
    for name in ("affine", "elementwise_affine"):  # these are printed, and exporters read them
        if hasattr(module, name):
            setattr(module, name, False)


def _drop_scale(module: nn.Module, removal: DropScale) -> None:
    old = module.get_parameter(removal.name)
    one = nn.Parameter(old.new_ones([1] * old.dim()), requires_grad=False)
    module.register_parameter(removal.name, None if removal.absent else one)


def _remainder(module: nn.Module, removal: Replacement) -> nn.Module:
    kept = [
        item.kind(**dict(item.arguments))
        if isinstance(item, Activation)
        else module.get_submodule(item)
        for item in removal.keep
    ]
    if not kept:
        return nn.Identity().train(module.training)
    if removal.shared:
        for item in (child for one in kept for child in one.modules()):
            if getattr(item, "inplace", False) is True:
                item.inplace = False  # type: ignore[assignment]
    return (kept[0] if len(kept) == 1 else nn.Sequential(*kept)).train(module.training)


def _substitute(model: nn.Module, new: dict[nn.Module, nn.Module]) -> nn.Module:
    """Put each new module wherever its old module is registered, which may be several places."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in new:
                parent._modules[name] = new[child]
    return new.get(model, model)
