"""Carrying out a plan on a model: new weights, and modules taken out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deployfold.errors import FoldError
from deployfold.folding import algebra
from deployfold.folding.graph.layers import Layer
from deployfold.folding.rules.into_producer import centre_taps
from deployfold.folding.rules.merge_branches import taps_within
from deployfold.folding.rules.plan import (
    Activation,
    Bypass,
    LayerEdit,
    Neutralise,
    NormEdit,
    Plan,
    Replacement,
    Silence,
    Transplant,
)

from .forward import rewrite_forward

_SETTINGS = frozenset("""alpha approximate beta max_val min_val negative_slope threshold""".split())


class Zero(nn.Module):
    """What is left of a branch that was merged into a parallel one: a scalar zero to add."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a zero of shape ``()`` with the dtype and device of ``x``."""
        return x.new_zeros(())


def apply(plan: Plan, model: nn.Module) -> nn.Module:
    """Carry out ``plan`` on ``model``, in place; returns the model, which is a new object only if
    the forward of the model itself had to be rewritten.

    New weights are computed in float64 and rounded once to the dtype they are stored in.

    Raises:
        FoldError: a new weight does not fit its dtype.
    """
    with torch.no_grad():
        new_biases: list[tuple[Layer, Tensor]] = []
        for edit in plan.layers:
            bias = _edit_layer(model, edit)
            if bias is not None and edit.layer.functional:
                new_biases.append((edit.layer, bias))
            elif bias is not None:
                module = model.get_submodule(edit.layer.path)
                frozen = not module.get_parameter("weight").requires_grad
                module.bias = nn.Parameter(bias, requires_grad=not frozen)
        for norm in plan.norms:
            _edit_norm(model.get_submodule(norm.path), norm)
    bypasses = [removal for removal in plan.removals if isinstance(removal, Bypass)]
    replaced = {}
    for removal in plan.removals:
        if isinstance(removal, Replacement):
            module = model.get_submodule(removal.path)
            replaced[module] = _remainder(module, removal)
    model = _substitute(model, replaced)
    for removal in plan.removals:
        if isinstance(removal, (Silence, Transplant)):
            module = model.get_submodule(removal.path)
            model = _substitute(model, {module: Zero().train(module.training)})
            if isinstance(removal, Transplant):
                model = _substitute(model, {model.get_submodule(removal.target): module})
        elif isinstance(removal, Neutralise):
            _neutralise(model.get_submodule(removal.path), removal)
    paths = {bypass.path for bypass in bypasses} | {layer.path for layer, _ in new_biases}
    for path in sorted(paths):
        module = model.get_submodule(path)
        rewritten = rewrite_forward(
            module,
            bypass=[(item.op_name, item.occurrence) for item in bypasses if item.path == path],
            biases=[
                (layer.op_name, layer.occurrence, bias)
                for layer, bias in new_biases
                if layer.path == path
            ],
        )
        model = _substitute(model, {module: rewritten})
    return model


def _edit_layer(model: nn.Module, edit: LayerEdit) -> Tensor | None:
    """Write the new weight and bias of a layer; returns the bias if the layer had none."""
    layer = edit.layer
    stored = _tensor(model, layer.weight)
    shift = edit.shift.to(stored.device)
    first = edit.terms[0]
    scaled = len(edit.terms) == 1 and first.source == layer and first.columns is None
    if scaled and layer.kind != "embedding":
        rows = first.rows.to(stored.device)
        algebra.scale_rows_(stored, rows, transposed=layer.transposed, groups=layer.groups)
        _check_range(stored, layer.weight)
        bias = None if layer.bias is None else _tensor(model, layer.bias).double()
        return _edit_bias(model, edit, shift if bias is None else shift + rows * bias)
    total: Tensor | None = None
    for term in edit.terms:
        rows = term.rows.to(stored.device)
        if term.source is None:
            weight = _identity(layer).to(stored.device)
            bias = None
        else:
            weight = _tensor(model, term.source.weight).double()
            bias = None if term.source.bias is None else _tensor(model, term.source.bias).double()
        groups = layer.groups if term.source is None else term.source.groups
        if term.columns is not None:
            scale, constant = (
                v.to(stored.device) for v in (term.columns.scale, term.columns.shift)
            )
            if term.columns.has_shift:
                forth = weight.t() if layer.kind == "product" else weight
                shift = shift + rows * algebra.response_to(forth, constant, groups=groups)
            weight = algebra.scale_columns(
                weight, scale, transposed=layer.transposed, groups=groups
            )
        if bias is not None:
            shift = shift + rows * bias
        weight = algebra.scale_rows(weight, rows, transposed=layer.transposed, groups=groups)
        if term.source is not None and term.source != layer:
            taps = taps_within(term.source, layer)
            assert taps is not None
            weight = algebra.embed_kernel(
                weight, groups=groups, into_groups=layer.groups, taps=taps
            )
        total = weight if total is None else total.add_(weight)
    assert total is not None
    if layer.kind == "embedding":
        _store(stored, total + shift, layer.weight)
        return None
    _store(stored, total, layer.weight)
    return _edit_bias(model, edit, shift)


def _edit_bias(model: nn.Module, edit: LayerEdit, value: Tensor) -> Tensor | None:
    """Write the bias of a layer; returns it if the layer has none yet and needs one."""
    layer = edit.layer
    if layer.bias is not None:
        _store(_tensor(model, layer.bias), value, layer.bias)
        return None
    if not edit.biased:
        return None
    new = torch.empty_like(value, dtype=_tensor(model, layer.weight).dtype)
    _store(new, value, f"{layer.path}.bias")
    return new


def _identity(layer: Layer) -> Tensor:
    taps = centre_taps(layer)
    assert taps is not None
    return algebra.identity_kernel(layer.out_channels, groups=layer.groups, taps=taps)


def _edit_norm(module: nn.Module, edit: NormEdit) -> None:
    mean, variance = module.get_buffer("running_mean"), module.get_buffer("running_var")
    device = mean.device
    scale, shift = edit.affine.scale.to(device), edit.affine.shift.to(device)
    eps: float = module.eps  # type: ignore[assignment]
    weight = scale * torch.sqrt(variance.double() + eps)
    bias = shift + mean.double() * scale
    for name, value in (("weight", weight), ("bias", bias)):
        if getattr(module, name) is None:
            module.register_parameter(name, nn.Parameter(value.to(mean.dtype)))
        else:
            _store(module.get_parameter(name), value, f"{edit.path}.{name}")


def _neutralise(module: nn.Module, removal: Neutralise) -> None:
    old = module.get_parameter(removal.name)
    one = nn.Parameter(old.new_ones([1] * old.dim()), requires_grad=False)
    module.register_parameter(removal.name, None if removal.absent else one)


def _store(target: Tensor, value: Tensor, name: str) -> None:
    target.copy_(value)
    if not _is_finite(value):
        return  # it was not finite before, and the comparison will say so
    _check_range(target, name)


def _is_finite(tensor: Tensor) -> bool:
    # One pass that allocates nothing; NaN comes through as well.
    return (
        all(bool(bound.isfinite()) for bound in torch.aminmax(tensor)) if tensor.numel() else True
    )


def _check_range(tensor: Tensor, name: str) -> None:
    if tensor.dtype is not torch.float64 and not _is_finite(tensor):
        if bool(tensor.isnan().any()):  # which no scale of a fold makes of a number
            raise FoldError(
                f"{name} holds NaN.", hint="The training diverged: choose an earlier checkpoint."
            )
        raise FoldError(
            f"Folding would make {name} larger than {tensor.dtype} can hold.",
            hint="Convert the model to float32 first (model.float()); deployfold lowers the "
            "folded model to fp16 itself and keeps such layers in fp32.",
        )


def _tensor(model: nn.Module, name: str) -> Tensor:
    path, _, attribute = name.rpartition(".")
    tensor: Tensor = getattr(model.get_submodule(path), attribute)
    return tensor


def _remainder(module: nn.Module, removal: Replacement) -> nn.Module:
    kept = [
        _activation_module(item) if isinstance(item, Activation) else module.get_submodule(item)
        for item in removal.keep
    ]
    if not kept:
        return nn.Identity().train(module.training)
    if removal.shared:
        for item in (child for one in kept for child in one.modules()):
            if getattr(item, "inplace", False) is True:
                item.inplace = False  # type: ignore[assignment]
    return (kept[0] if len(kept) == 1 else nn.Sequential(*kept)).train(module.training)


def _activation_module(activation: Activation) -> nn.Module:
    """The module of an activation; operator and module share the names of their settings."""
    classes: dict[str, type[nn.Module]] = {
        "elu": nn.ELU,
        "gelu": nn.GELU,
        "hardsigmoid": nn.Hardsigmoid,
        "hardswish": nn.Hardswish,
        "hardtanh": nn.Hardtanh,
        "leaky_relu": nn.LeakyReLU,
        "mish": nn.Mish,
        "relu": nn.ReLU,
        "relu6": nn.ReLU6,
        "selu": nn.SELU,
        "sigmoid": nn.Sigmoid,
        "silu": nn.SiLU,
        "softplus": nn.Softplus,
        "tanh": nn.Tanh,
    }
    settings = {key: item for key, item in activation.arguments if key in _SETTINGS}
    return classes[activation.name](**settings)


def _substitute(model: nn.Module, new: dict[nn.Module, nn.Module]) -> nn.Module:
    """Put each new module wherever its old one is registered; a shared one has several places."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in new:
                parent._modules[name] = new[child]
    return new.get(model, model)
