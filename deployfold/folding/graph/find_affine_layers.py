"""Finds the affine layers of a model: BatchNorm in every form, and constant scales.

For each layer, this module computes the scale and shift, and plans the removal from the model. The
rules decide later whether the layer can be folded.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from deployfold.folding.algebra import batch_norm
from deployfold.folding.operators.table import record_of
from deployfold.folding.plan import Activation, Bypass, Replacement
from deployfold.folding.rewrite.forward import cannot_rewrite

from .affine_layer import AffineLayer, is_batchnorm_module
from .aliases import read_by_others
from .arithmetic import arithmetic_layers
from .graph import Graph, Op, Value, forward_of, has_hooks
from .input_scaling import input_scalings

_TENSORS = ("weight", "bias", "running_mean", "running_var")
_PLAIN_FORWARDS = frozenset({_BatchNorm.forward, nn.SyncBatchNorm.forward})


def find_affine_layers(graph: Graph, tensors: dict[str, torch.Tensor]) -> list[AffineLayer]:
    """Find every affine layer of the traced model, in the order of their first runs.

    The function merges layers of several operators (FrozenBatchNorm2d) into one operator of
    ``graph``.

    Args:
        tensors: the model's parameters and buffers by qualified name.
    """
    affine_layers: dict[object, AffineLayer] = {}
    for affine_layer in (*arithmetic_layers(graph, tensors), *input_scalings(graph)):
        affine_layers[affine_layer.name] = affine_layer
    for op in graph.ops:
        if record_of(op).batch_norm and not op.inputs[0].constant:
            key = tuple(
                None if op[name] is None else op[name].name or (op.call.path, op.occurrence)
                for name in _TENSORS
            )
            if all(name is None for name in key):  # stateless, such as F.instance_norm
                if not isinstance(op.call.module, _BatchNorm):
                    continue
                key = (op.call.module, *key)
            if key not in affine_layers:
                affine_layers[key] = _batch_norm_layer(op, tensors)
            affine_layers[key].sites.append(op)
    for affine_layer in affine_layers.values():
        if affine_layer.reason is None and not affine_layer.removals:
            _plan_removal(graph, affine_layer)
    order = {op: index for index, op in enumerate(graph.ops)}
    return sorted(affine_layers.values(), key=lambda affine_layer: order[affine_layer.sites[0]])


def count_batchnorms(model: nn.Module) -> int:
    """The number of distinct BatchNorm modules in ``model``."""
    return sum(is_batchnorm_module(module) for module in model.modules())


def _batch_norm_layer(op: Op, tensors: dict[str, torch.Tensor]) -> AffineLayer:
    owner, module = _owner(op), op.call.module
    inside = owner == op.call.path
    affine_layer = AffineLayer(
        name=owner or f"batch_norm[{op.occurrence}] in forward",
        module_path=op.call.path,
        is_batchnorm=True,
        functional=not (inside and is_batchnorm_module(module)),
    )
    mean, variance = op["running_mean"], op["running_var"]
    if op.call.transformed:
        affine_layer.reason = "it runs inside torch.vmap or another torch.func transform"
        return affine_layer
    if mean is None:
        affine_layer.reason = "it has no running statistics, so it depends on the batch"
        return affine_layer
    if variance is None or op.arguments.get("training"):
        affine_layer.reason = "it is in training mode; call model.eval() first"
        return affine_layer
    for name in _TENSORS:
        if op[name] is not None and op[name].name is None:
            affine_layer.reason = (
                f"its {name} is computed in forward"
                if op[name].producer is not None
                else f"its {name} is no parameter or buffer of a registered module"
            )
            return affine_layer
    weight, bias = (
        None if value is None else tensors[value.name] for value in (op["weight"], op["bias"])
    )
    eps = op["eps"] if "eps" in op.arguments else op["epsilon"]
    affine_layer.affine = batch_norm(weight, bias, tensors[mean.name], tensors[variance.name], eps)
    if not affine_layer.affine.finite:
        stored = [name for name in _TENSORS if op[name] is not None]
        wrong = [name for name in stored if not tensors[op[name].name].isfinite().all()]
        affine_layer.reason = (
            f"its {wrong[0]} holds inf or NaN"
            if wrong
            else "its running_var gives inf or NaN: plus eps it is not positive"
        )
    plain = forward_of(module) in _PLAIN_FORWARDS
    affine_layer.editable = inside and (plain or _computes_its_own(op, module, eps))
    return affine_layer


def _computes_its_own(op: Op, module: nn.Module, eps: float) -> bool:
    """Whether a BatchNorm with its own forward computes torch's formula from torch's tensor names.

    New numbers for ``weight`` and ``bias`` then have the same effect as in torch's BatchNorm.
    """
    own = all(
        op[name] is not None and op[name].name == f"{op.call.path}.{name}" for name in _TENSORS
    )
    return (
        own
        and getattr(module, "eps", None) == eps
        and all(user.repeats(op) for name in ("weight", "bias") for user in op[name].consumers)
    )


def _owner(op: Op) -> str:
    for argument in ("running_mean", "weight", "running_var", "bias"):
        value: Value | None = op[argument]
        if value is not None and value.name is not None:
            return value.name.rpartition(".")[0]
    return op.call.path


def _plan_removal(graph: Graph, affine_layer: AffineLayer) -> None:
    sites = affine_layer.sites
    if affine_layer.functional:
        affine_layer.reason = _plan_bypass(affine_layer)
        return
    module = sites[0].call.module
    if has_hooks(module):
        affine_layer.reason = "it has forward hooks"
        return
    if type(module).__call__ is not nn.Module.__call__:
        affine_layer.reason = f"its class {type(module).__name__} has a __call__ of its own"
        return
    if forward_of(module) in _PLAIN_FORWARDS:
        affine_layer.removals = (Replacement(affine_layer.module_path),)
        return
    kept = {_what_follows(graph, op) for op in sites}
    if len(graph.calls_of(module)) != len(sites):
        kept.add("runs its batch norm more than once, or not at every call")
    chain = kept.pop()
    if kept or isinstance(chain, str):
        if _plan_bypass(affine_layer) is not None:
            reason = chain if isinstance(chain, str) else "does different things at each call"
            affine_layer.reason = f"its class {type(module).__name__} {reason}"
        return
    shared = bool(chain) and any(read_by_others(op.inputs[0]) for op in sites)
    affine_layer.removals = (Replacement(affine_layer.module_path, chain, shared),)


def _plan_bypass(affine_layer: AffineLayer) -> str | None:
    """Plan to remove the operators from the forwards that run them; return a reason if not."""
    for op in affine_layer.sites:
        reason = cannot_rewrite(op.call.module, op.name, op.occurrence)
        if reason is not None:
            return reason
    places = {(op.call.path, op.name, op.occurrence): None for op in affine_layer.sites}
    affine_layer.removals = tuple(Bypass(*place) for place in places)  # passes share code
    return None


def _what_follows(graph: Graph, site: Op) -> tuple[str | Activation, ...] | str:
    """The steps of a fused class after its BatchNorm, or the reason why they form no chain."""
    call = site.call
    if list(call.inputs) != [site.inputs[0]] or len(call.outputs) != 1:
        return "does more than normalise its input"
    value, end = site.output, call.outputs[0]
    kept: list[str | Activation] = []
    while value is not end:
        if len(value.consumers) != 1:
            return "does more than normalise its input"
        op = value.consumers[0]
        child = op.call
        if not child.within(call) or child is call:
            activation = _activation(op)
            if activation is None or child is not call:
                return f"runs {op.name} after its batch norm"
            kept.append(activation)
            value = op.output
            continue
        child = next(one for one in child.and_around() if one.parent is call)
        if list(child.inputs) != [value] or len(child.outputs) != 1:
            return "does more than normalise its input"
        kept.append(child.path.rpartition(".")[2])
        value = child.outputs[0]
    return tuple(kept)


def _activation(op: Op) -> Activation | None:
    activation = record_of(op).activation
    if activation is None or len(op.inputs) != 1:
        return None
    settings = tuple((key, op[key]) for key in activation[1])
    return Activation(activation[0], settings)
