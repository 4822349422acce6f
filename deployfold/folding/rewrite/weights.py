"""Writing new weights and biases: apply the edits of a plan to the tensors of a model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deployfold.errors import FoldError
from deployfold.folding import algebra
from deployfold.folding.graph.layers import Layer
from deployfold.folding.kernels import centre_taps, taps_within
from deployfold.folding.plan import LayerEdit, NormEdit, Term
from deployfold.util.tensors import is_finite


class Exact:
    """The float64 numbers of a folded model before they were rounded to its dtype.

    Vectors are kept. A new weight is computed from the original model at each use, because float64
    copies of all weights take twice the memory of a float32 model.
    """

    def __init__(self, original: nn.Module) -> None:
        self._original = original
        self._vectors: dict[tuple[int, int], Tensor] = {}
        self._edits: dict[tuple[int, int], LayerEdit] = {}

    def keep(self, stored: Tensor, value: Tensor | LayerEdit) -> None:
        """Note the numbers that were rounded into ``stored``, or the edit that gives them."""
        place = (stored.data_ptr(), stored.numel())
        if isinstance(value, LayerEdit):
            self._edits[place] = value
        else:
            self._vectors[place] = value

    def knows(self, stored: Tensor) -> bool:
        """Whether the fold has changed ``stored``."""
        place = (stored.data_ptr(), stored.numel())
        return place in self._vectors or place in self._edits

    def of(self, stored: Tensor) -> Tensor:
        """The numbers of ``stored`` in float64, in its shape."""
        place = (stored.data_ptr(), stored.numel())
        if place in self._edits:
            return _new_weight(self._original, self._edits[place])
        return self._vectors.get(place, stored.detach()).double().reshape(stored.shape)


def edit_layer(model: nn.Module, edit: LayerEdit, exact: Exact) -> Tensor | None:
    """Write the new weight and bias of a layer; return the bias if the layer had none.

    New numbers are computed in float64 and rounded once to the dtype in which they are stored.
    ``exact`` gets them as they were before.

    Raises:
        FoldError: a new number does not fit its dtype.
    """
    if edit.bias_only:
        return _edit_bias(model, edit, _summed(model, edit)[1], exact)
    stored = _tensor(model, edit.layer.weight)
    exact.keep(stored, edit)
    if _scales_rows_only(edit):
        return _scale_rows(model, edit, exact)
    weight, shift = _summed(model, edit)
    if edit.layer.kind == "embedding":  # every row of its weight includes the bias
        _store(stored, weight + shift, edit.layer.weight)
        return None
    _store(stored, _as_stored(weight, edit.layer), edit.layer.weight)
    return _edit_bias(model, edit, shift, exact)


def edit_norm(module: nn.Module, edit: NormEdit, exact: Exact) -> None:
    """Set the weight and bias of a norm so that its affine part computes ``edit.affine``.

    The affine part of a BatchNorm includes its statistics.
    """
    like: Tensor = module.weight if module.weight is not None else module.running_mean  # type: ignore[assignment]
    weight, bias = edit.affine.scale.to(like.device), edit.affine.shift.to(like.device)
    mean, variance = (getattr(module, f"running_{name}", None) for name in ("mean", "var"))
    if mean is not None and variance is not None:
        eps: float = module.eps  # type: ignore[assignment]
        bias = bias + mean.double() * weight
        weight = weight * torch.sqrt(variance.double() + eps)
    for name, value in (("weight", weight), ("bias", bias)):
        if getattr(module, name) is None:
            module.register_parameter(name, nn.Parameter(value.to(like.dtype)))
        else:
            _store(module.get_parameter(name), value, f"{edit.path}.{name}")
        exact.keep(module.get_parameter(name), value)


def _scales_rows_only(edit: LayerEdit) -> bool:
    """Whether the edit only multiplies output channels of the weight."""
    first = edit.terms[0]
    alone = len(edit.terms) == 1 and first.source == edit.layer and first.columns is None
    return alone and edit.layer.kind != "embedding" and edit.layer.form is None


def _new_weight(model: nn.Module, edit: LayerEdit) -> Tensor:
    """The new weight of a layer in float64; ``model`` stays unchanged."""
    layer = edit.layer
    if _scales_rows_only(edit):
        weight = _tensor(model, layer.weight).detach()
        rows = edit.terms[0].rows.to(weight.device)
        new = torch.empty_like(weight, dtype=torch.float64)
        algebra.scale_rows_(
            new, rows, transposed=layer.transposed, groups=layer.groups, source=weight
        )
        return new
    with torch.no_grad():
        weight, shift = _summed(model, edit)
    return weight + shift if layer.kind == "embedding" else _as_stored(weight, layer)


def _as_stored(weight: Tensor, layer: Layer) -> Tensor:
    return weight if layer.form is None else layer.form.stored(weight)


def _summed(model: nn.Module, edit: LayerEdit) -> tuple[Tensor, Tensor]:
    """The new weight and the addition to the bias, in float64: the sums of all terms."""
    first, *others = (_term(model, edit.layer, term) for term in edit.terms)
    weight, shift = first[0], first[1] + edit.shift.to(first[1].device)
    for more, further in others:
        weight.add_(more)
        shift = shift + further
    return weight, shift


def _scale_rows(model: nn.Module, edit: LayerEdit, exact: Exact) -> Tensor | None:
    """Apply a rows-only edit, the frequent case, in place and without a float64 copy."""
    layer = edit.layer
    stored = _tensor(model, layer.weight)
    rows, shift = edit.terms[0].rows.to(stored.device), edit.shift.to(stored.device)
    algebra.scale_rows_(stored, rows, transposed=layer.transposed, groups=layer.groups)
    check_range(stored, layer.weight)
    if layer.bias is not None:
        shift = shift + rows * _tensor(model, layer.bias).double()
    return _edit_bias(model, edit, shift, exact)


def _term(model: nn.Module, layer: Layer, term: Term) -> tuple[Tensor, Tensor]:
    """One term of an edit, as a kernel of the size of ``layer``'s kernel, and as a shift."""
    device = _tensor(model, layer.weight).device
    rows = term.rows.to(device)
    source = term.source or layer
    if term.source is None:
        weight, bias = _identity(layer).to(device), None
    else:
        stored = _tensor(model, source.weight).double()
        weight = stored if source.form is None else source.form.matrix(stored)
        bias = None if source.bias is None else _tensor(model, source.bias).double()
        bias = bias if bias is None or source.form is None else source.form.vector(bias)
    shift = torch.zeros_like(rows)
    if term.columns is not None:
        if term.columns.has_shift:
            forth = (
                algebra.forward_weight(weight, groups=source.groups) if layer.transposed else weight
            )
            constant = term.columns.shift.to(device)
            shift = rows * algebra.response_to(forth, constant, groups=source.groups)
        weight = algebra.scale_columns(
            weight,
            term.columns.scale.to(device),
            transposed=layer.transposed,
            groups=source.groups,
        )
    if bias is not None:
        shift = shift + rows * bias
    weight = algebra.scale_rows(weight, rows, transposed=layer.transposed, groups=source.groups)
    return _embedded(weight, source, layer), shift


def _embedded(weight: Tensor, source: Layer, layer: Layer) -> Tensor:
    """Write the weight of the parallel branch ``source`` as a kernel of ``layer``."""
    if source == layer:
        return weight
    taps = taps_within(source, layer)
    if taps is None:
        raise ValueError(f"the kernel of {source.weight} does not fit into that of {layer.weight}")
    return algebra.embed_kernel(weight, groups=source.groups, into_groups=layer.groups, taps=taps)


def _identity(layer: Layer) -> Tensor:
    taps = centre_taps(layer)
    if taps is None:
        raise ValueError(f"the kernel of {layer.weight} has no tap at its centre")
    return algebra.identity_kernel(layer.out_channels, groups=layer.groups, taps=taps)


def _edit_bias(model: nn.Module, edit: LayerEdit, value: Tensor, exact: Exact) -> Tensor | None:
    """Write the bias of a layer; return the bias if the layer has none yet and needs one."""
    layer = edit.layer
    if layer.bias is not None:
        stored = _tensor(model, layer.bias)
        if layer.form is not None:
            value = layer.form.bias(value) / layer.form.bias_factor
        _store(stored, value, layer.bias)
        exact.keep(stored, value)
        return None
    if not edit.biased:
        return None
    new = torch.empty_like(value, dtype=_tensor(model, layer.weight).dtype)
    _store(new, value, f"{layer.path}.bias")
    exact.keep(new, value)
    return new


def _store(target: Tensor, value: Tensor, name: str) -> None:
    target.copy_(value)
    if not is_finite(value):
        return  # not finite before folding either; the comparison will report it
    check_range(target, name)


def check_range(tensor: Tensor, name: str) -> None:
    """Raise :class:`FoldError` if a folded tensor holds NaN, or more than its dtype can hold."""
    if tensor.dtype is not torch.float64 and not is_finite(tensor):
        if bool(tensor.isnan().any()):  # folding a finite number never yields NaN
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
