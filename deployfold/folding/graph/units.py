"""Every constant per-channel affine map of a model: BatchNorm in all its guises, and LayerScale.

A *unit* is such a map with all the places where it runs. Whether it can be folded is decided
elsewhere; here stands what it computes and how it would be taken out of the model.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from deployfold.folding.algebra import batch_norm
from deployfold.folding.rewrite.forward import cannot_rewrite
from deployfold.folding.rules.plan import Activation, Bypass, Replacement

from .aliases import read_by_others
from .arithmetic import arithmetic_units
from .graph import Graph, Op, Value
from .unit import Unit, is_batchnorm_module

_BATCH_NORMS = frozenset(
    """batch_norm cudnn_batch_norm miopen_batch_norm native_batch_norm
    _native_batch_norm_legit_no_training""".split()
)
_PLAIN_FORWARDS = frozenset({_BatchNorm.forward, nn.SyncBatchNorm.forward})
_ACTIVATIONS = frozenset(
    """elu gelu hardsigmoid hardswish hardtanh leaky_relu mish relu relu6 selu sigmoid silu
    softplus tanh""".split()
)


def find_units(graph: Graph, tensors: dict[str, torch.Tensor]) -> list[Unit]:
    """Every unit of the traced model, in the order they first ran.

    Operators that make up the arithmetic of one unit (FrozenBatchNorm2d) are collapsed into one
    in ``graph``.

    Args:
        tensors: the model's parameters and buffers by qualified name.
    """
    units: dict[object, Unit] = {}
    for unit in arithmetic_units(graph, tensors):
        units[unit.name] = unit
    for op in graph.ops:
        if op.name in _BATCH_NORMS and not op.inputs[0].constant:
            key = tuple(
                None if op[name] is None else op[name].name or id(op[name])
                for name in ("weight", "bias", "running_mean", "running_var")
            )
            if all(name is None for name in key):  # no state: F.instance_norm-like normalisation
                if not isinstance(op.call.module, _BatchNorm):
                    continue
                key = (op.call.module, *key)
            if key not in units:
                units[key] = _batch_norm_unit(op, tensors)
            units[key].sites.append(op)
    for unit in units.values():
        if unit.reason is None and not unit.removals:
            _plan_removal(graph, unit)
    order = {op: index for index, op in enumerate(graph.ops)}
    return sorted(units.values(), key=lambda unit: order[unit.sites[0]])


def count_batchnorms(model: nn.Module) -> int:
    """How many distinct BatchNorm modules ``model`` holds."""
    return sum(is_batchnorm_module(module) for module in model.modules())


def _batch_norm_unit(op: Op, tensors: dict[str, torch.Tensor]) -> Unit:
    owner, module = _owner(op), op.call.module
    inside = owner == op.call.path
    unit = Unit(
        name=owner or f"batch_norm[{op.occurrence}] in forward",
        module_path=op.call.path,
        is_batchnorm=True,
        functional=not (inside and is_batchnorm_module(module)),
    )
    if _flag(op, "training") or op["running_mean"] is None or op["running_var"] is None:
        if op["running_mean"] is None:
            unit.reason = "it has no running statistics, so it depends on the batch"
        else:
            unit.reason = "it is in training mode; call model.eval() first"
        return unit
    arguments: dict[str, torch.Tensor | None] = {}
    for name in ("weight", "bias", "running_mean", "running_var"):
        value: Value | None = op[name]
        if value is None:
            arguments[name] = None
        elif value.name is None:
            unit.reason = f"its {name} is computed in forward"
            return unit
        else:
            arguments[name] = tensors[value.name]
    mean, variance = arguments["running_mean"], arguments["running_var"]
    assert mean is not None
    assert variance is not None
    eps = op["eps"] if "eps" in op.arguments else op["epsilon"]
    unit.affine = batch_norm(arguments["weight"], arguments["bias"], mean, variance, eps)
    if not unit.affine.finite:
        unit.reason = "its statistics give inf or NaN (a running variance that is not positive?)"
    plain = type(module).forward in _PLAIN_FORWARDS
    unit.editable = inside and (plain or _computes_its_own(op, module, eps))
    return unit


def _computes_its_own(op: Op, module: nn.Module, eps: float) -> bool:
    """Whether a class with a forward of its own computes what its stored tensors, which it has
    like torch's, say: a change of weight and bias then changes it as it would one of torch's."""
    names = ("weight", "bias", "running_mean", "running_var")
    own = all(op[name] is not None and op[name].name == f"{op.call.path}.{name}" for name in names)
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


def _flag(op: Op, name: str) -> bool:
    return bool(op.arguments.get(name, False))


def _plan_removal(graph: Graph, unit: Unit) -> None:
    sites = unit.sites
    if unit.functional:
        unit.reason = _plan_bypass(unit)
        return
    module = sites[0].call.module
    if module._forward_hooks or module._forward_pre_hooks:
        unit.reason = "it has forward hooks"
        return
    if type(module).forward in _PLAIN_FORWARDS:
        unit.removals = (Replacement(unit.module_path),)
        return
    kept = {_what_follows(graph, op) for op in sites}
    if len(graph.calls_of(module)) != len(sites):
        kept.add("runs its batch norm more than once, or not at every call")
    chain = kept.pop()
    if kept or isinstance(chain, str):
        if _plan_bypass(unit) is not None:
            reason = chain if isinstance(chain, str) else "does different things at each call"
            unit.reason = f"its class {type(module).__name__} {reason}"
        return
    shared = bool(chain) and any(read_by_others(op.inputs[0]) for op in sites)
    unit.removals = (Replacement(unit.module_path, chain, shared),)


def _plan_bypass(unit: Unit) -> str | None:
    """Plan to take the operators out of the forwards that run them; or why that cannot be."""
    for op in unit.sites:
        reason = cannot_rewrite(op.call.module, op.name, op.occurrence)
        if reason is not None:
            return reason
    unit.removals = tuple(Bypass(op.call.path, op.name, op.occurrence) for op in unit.sites)
    return None


def _what_follows(graph: Graph, site: Op) -> tuple[str | Activation, ...] | str:
    """What a fused class does after its BatchNorm, or the reason why that is not a simple chain."""
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
        while child.parent is not call:
            assert child.parent is not None
            child = child.parent
        if list(child.inputs) != [value] or len(child.outputs) != 1:
            return "does more than normalise its input"
        kept.append(child.path.rpartition(".")[2])
        value = child.outputs[0]
    return tuple(kept)


def _activation(op: Op) -> Activation | None:
    name = op.name.rstrip("_")
    if name not in _ACTIVATIONS or len(op.inputs) != 1:
        return None
    arguments = tuple((key, item) for key, item in op.arguments.items() if key != "self")
    return Activation(name, arguments)
