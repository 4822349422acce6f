"""Every constant per-channel affine map of a model: BatchNorm in all its guises, and LayerScale.

A *unit* is such a map with all the places where it runs. Whether it can be folded is decided
elsewhere; here stands what it computes and how it would be taken out of the model.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .algebra import Affine, batch_norm
from .forward import cannot_rewrite
from .graph import Call, Graph, Op, Value
from .plan import Activation, Bypass, Removal, Replacement

_BATCH_NORMS = frozenset(
    """batch_norm cudnn_batch_norm miopen_batch_norm native_batch_norm
    _native_batch_norm_legit_no_training""".split()
)
_PLAIN_FORWARDS = frozenset({_BatchNorm.forward, nn.SyncBatchNorm.forward})
_ACTIVATIONS = frozenset(
    """elu gelu hardsigmoid hardswish hardtanh leaky_relu mish relu relu6 selu sigmoid silu
    softplus tanh""".split()
)
_ARITHMETIC = frozenset({"mul", "add", "sub", "div"})


@dataclass(eq=False)
class Unit:
    """One constant per-channel affine map.

    Attributes:
        name: the module path, or where its function is called.
        sites: every operator that runs it.
        affine: what it computes, in float64; other units may have been folded into it.
        removals: how to take it out; empty when ``reason`` says why it cannot be.
        editable: it has, or can be given, a weight and a bias of its own.
    """

    name: str
    module_path: str
    is_batchnorm: bool
    axis: int | None = 1
    sites: list[Op] = field(default_factory=list)
    affine: Affine | None = None
    removals: tuple[Removal, ...] = ()
    reason: str | None = None
    editable: bool = False
    edited: bool = False

    def channel_axis(self, value: Value) -> int:
        """The axis of ``value`` that the map's channels lie on."""
        return 1 if self.axis is None else self.axis % len(value.shape)


def find_units(graph: Graph, tensors: dict[str, torch.Tensor]) -> list[Unit]:
    """Every unit of the traced model, in the order they first ran.

    Operators that make up the arithmetic of one unit (FrozenBatchNorm2d) are collapsed into one
    in ``graph``.

    Args:
        tensors: the model's parameters and buffers by qualified name.
    """
    units: dict[object, Unit] = {}
    for call in list(graph.calls):
        collapsed = _collapse(graph, call)
        if collapsed is not None:
            unit = units.setdefault(call.module, _arithmetic_unit(call, collapsed))
            unit.sites.append(collapsed)
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
            unit = units.setdefault(key, _batch_norm_unit(op, tensors))
            unit.sites.append(op)
    for unit in units.values():
        if unit.reason is None and not unit.removals:
            _plan_removal(graph, unit)
    order = {op: index for index, op in enumerate(graph.ops)}
    return sorted(units.values(), key=lambda unit: order[unit.sites[0]])


def is_batchnorm_module(module: nn.Module) -> bool:
    """Whether a module counts as a BatchNorm layer: one of torch's, or one with its statistics."""
    if isinstance(module, nn.modules.instancenorm._InstanceNorm):
        return False
    if isinstance(module, _BatchNorm):
        return True
    own = dict(module.named_buffers(recurse=False))
    return "running_mean" in own and "running_var" in own


def count_batchnorms(model: nn.Module) -> int:
    """How many distinct BatchNorm modules ``model`` holds."""
    return sum(is_batchnorm_module(module) for module in model.modules())


def _batch_norm_unit(op: Op, tensors: dict[str, torch.Tensor]) -> Unit:
    owner = _owner(op)
    inside = owner == op.call.path
    unit = Unit(
        name=owner if inside else f"{op.call.path or 'model'}:batch_norm[{op.occurrence}]",
        module_path=op.call.path,
        is_batchnorm=True,
    )
    module = op.call.module
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
    unit.editable = inside and type(module).forward in _PLAIN_FORWARDS
    return unit


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
    if unit.name != unit.module_path:
        for op in sites:
            unit.reason = unit.reason or cannot_rewrite(op.call.module, op.name, op.occurrence)
        unit.removals = tuple(Bypass(op.call.path, op.name, op.occurrence) for op in sites)
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
    if len(kept) != 1 or isinstance(next(iter(kept)), str):
        reason = next((item for item in kept if isinstance(item, str)), "differs between calls")
        unit.reason = f"its class {type(module).__name__} {reason}"
        return
    unit.removals = (Replacement(unit.module_path, next(iter(kept))),)  # type: ignore[arg-type]


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


# Arithmetic on constants: FrozenBatchNorm2d, LayerScale, ElementAffine.


def _collapse(graph: Graph, call: Call) -> Op | None:
    """Make one operator of a leaf call whose output is ``constant * input + constant``."""
    if len(call.inputs) != 1 or len(call.outputs) != 1 or call.inputs[0].constant:
        return None
    if any(other.parent is call for other in graph.calls):
        return None
    source, result = call.inputs[0], call.outputs[0]
    chain: list[Op] = []
    value = result
    while value is not source:
        op = value.producer
        if op is None or op.call is not call or op.name.rstrip("_") not in _ARITHMETIC:
            return None
        variable = [item for item in op.inputs if not item.constant]
        if len(variable) != 1 or variable[0].shape != value.shape:
            return None
        if op.inputs[0].constant and op.name.rstrip("_") in {"sub", "div"}:
            return None
        if value is not result and len(value.consumers) != 1:
            return None
        chain.append(op)
        value = variable[0]
    axes = {_constant_axis(op, source) for op in chain} - {None}
    if not chain or len(axes) != 1 or -1 in axes:
        return None
    inner = set(chain)
    unit_op = Op("channel_affine", None, {"self": source}, call)
    unit_op.inputs, unit_op.outputs = [source], [result]
    unit_op.arguments["axis"] = next(iter(axes))
    source.consumers = [op for op in source.consumers if op not in inner] + [unit_op]
    result.producer = unit_op
    graph.ops[graph.ops.index(chain[0])] = unit_op
    graph.ops = [op for op in graph.ops if op not in inner]
    return unit_op


def _constant_axis(op: Op, source: Value) -> int | None:
    """The axis an operator's constant varies along; None for a scalar, -1 for several."""
    shapes = [value.shape for value in op.inputs if value.constant]
    rank = len(source.shape)
    for shape in shapes:
        axes = [rank - len(shape) + i for i, size in enumerate(shape) if size > 1]
        if len(axes) > 1 or len(shape) > rank or 0 in axes:
            return -1
        if axes:
            return axes[0]
    return None


def _arithmetic_unit(call: Call, op: Op) -> Unit:
    axis = op["axis"]
    source = op.inputs[0]
    unit = Unit(
        name=call.path,
        module_path=call.path,
        is_batchnorm=is_batchnorm_module(call.module),
        axis=axis,
    )
    if call.module._forward_hooks or call.module._forward_pre_hooks:
        unit.reason = "it has forward hooks"
        return unit
    shape = [1] * len(source.shape)
    shape[axis] = source.shape[axis]
    module = copy.deepcopy(call.module).double()
    probe = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    result = module(probe)
    # The derivative is the scale to the last bit, where f(1) - f(0) would cancel.
    (slope,) = torch.autograd.grad(result.sum(), probe)
    unit.affine = Affine(slope.flatten(), result.detach().flatten())
    if not unit.affine.finite:
        unit.reason = "its statistics give inf or NaN"
    unit.removals = (Replacement(call.path),)
    return unit
