"""Finds affine layers written as arithmetic: FrozenBatchNorm2d, LayerScale, ``x * gamma``."""

from __future__ import annotations

import copy

import torch

from deployfold.folding.algebra import Affine
from deployfold.folding.operators.table import record_of
from deployfold.folding.plan import DropScale, Replacement

from .affine_layer import AffineLayer, is_batchnorm_module
from .graph import Call, Graph, Op, Value, affine_op, has_hooks


def arithmetic_layers(graph: Graph, tensors: dict[str, torch.Tensor]) -> list[AffineLayer]:
    """Find the modules whose forward is an affine map, and the products with a scale parameter.

    The function merges the operators of each affine layer into one operator of ``graph``.
    """
    affine_layers: dict[object, AffineLayer] = {}
    parents = {id(call.parent) for call in graph.calls}
    for call in list(graph.calls):
        collapsed = None if id(call) in parents else _collapse(graph, call)
        if collapsed is not None:
            if call.module not in affine_layers:
                affine_layers[call.module] = _module_layer(call, collapsed)
            affine_layers[call.module].sites.append(collapsed)
    for name, value in graph.constants.items():
        own = name == value.name and isinstance(tensors[name], torch.nn.Parameter)
        scaled = _scaled_by(graph, value) if own and name not in graph.mutated else []
        if scaled:
            affine_layers[name] = _parameter_layer(graph, name, scaled, tensors[name])
    return list(affine_layers.values())


def _collapse(graph: Graph, call: Call) -> Op | None:
    """Merge the operators of a leaf call that computes ``constant * input + constant`` into one."""
    if len(call.inputs) != 1 or len(call.outputs) != 1 or call.inputs[0].constant:
        return None
    source, result = call.inputs[0], call.outputs[0]
    if source.shape != result.shape:
        return None
    chain: list[Op] = []
    value = result
    while value is not source:
        op = value.producer
        if op is None or op.call is not call:
            return None
        record = record_of(op)
        if not record.arithmetic and not record.moves:
            return None
        if len(op.variable) != 1 or len(op.outputs) != 1:
            return None
        if op.inputs[0].constant and op.name.rstrip("_") == "div":
            return None
        if value is not result and len(value.consumers) != 1:
            return None
        chain.append(op)
        value = op.variable[0]
    if not any(record_of(op).arithmetic for op in chain):
        return None
    if all(record_of(op).elementwise for op in chain):
        axes = {constant_axis(op, source) for op in chain} - {None}
        (axis,) = axes if len(axes) == 1 else (-1,)
    else:
        axis = _axis_tried(call, source)
    return None if axis is None or axis < 0 else merge_ops(graph, chain[::-1], axis)


@torch.enable_grad()
def _axis_tried(call: Call, source: Value) -> int:
    """The channel axis of an affine forward, found by a trial run in float64; -1 if none fits."""
    module = copy.deepcopy(call.module).double()
    device = next((tensor.device for tensor in module.state_dict().values()), None)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(source.shape, generator=generator, dtype=torch.float64).to(device)
    probe = drawn.requires_grad_()
    try:
        result = module(probe)
        if result.shape != probe.shape:
            return -1
        # The gradient of the sum is the scale only if the map treats each element separately.
        (slope,) = torch.autograd.grad(result.sum(), probe)
        shift = module(torch.zeros_like(probe)).detach()
    except Exception:  # the code may need state that only the real forward has
        return -1
    result = result.detach()
    scale = float(result.abs().max())
    if not bool((result - slope * drawn.detach() - shift).abs().max() <= 1e-12 * max(scale, 1.0)):
        return -1
    varies = {
        axis
        for item in (slope, shift)
        for axis in range(item.dim())
        if not torch.allclose(item, item.narrow(axis, 0, 1), rtol=1e-12, atol=1e-300)
    }
    return varies.pop() if len(varies) == 1 and varies != {0} else -1


def merge_ops(graph: Graph, chain: list[Op], axis: int | None) -> Op:
    """Replace a chain of operators, in the order they ran, by one ``channel_affine`` operator."""
    source = chain[0].variable[0]
    merged = affine_op(source, chain[-1].output, axis, chain[0].call)
    graph.replace(chain, merged)
    return merged


def constant_axis(op: Op, source: Value) -> int | None:
    """The axis along which an operator's constant varies; None for a scalar, -1 for several axes.

    A constant with more axes than ``source``, or one that varies along the batch, also gives -1.
    """
    shapes = [value.shape for value in op.inputs if value.constant]
    rank = len(source.shape)
    for shape in shapes:
        axes = [rank - len(shape) + i for i, size in enumerate(shape) if size > 1]
        if len(axes) > 1 or len(shape) > rank or 0 in axes:
            return -1
        if axes:
            return axes[0]
    return None


@torch.enable_grad()
def _module_layer(call: Call, op: Op) -> AffineLayer:
    axis = op["axis"]
    source = op.inputs[0]
    affine_layer = AffineLayer(
        name=call.path,
        module_path=call.path,
        is_batchnorm=is_batchnorm_module(call.module),
        axis=axis,
    )
    if has_hooks(call.module):
        affine_layer.reason = "it has forward hooks"
        return affine_layer
    shape = [1] * len(source.shape)
    shape[axis] = source.shape[axis]
    module = copy.deepcopy(call.module).double()
    probe = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    result = module(probe)
    # The derivative gives the exact scale. The difference f(1) - f(0) would lose digits.
    (slope,) = torch.autograd.grad(result.sum(), probe)
    shift = result.detach().flatten()
    affine_layer.affine = Affine(
        slope.flatten(), shift, affine_layer.is_batchnorm or bool(shift.any())
    )
    if not affine_layer.affine.finite:
        affine_layer.reason = "its statistics give inf or NaN"
    affine_layer.removals = (Replacement(call.path),)
    return affine_layer


def _scaled_by(graph: Graph, value: Value) -> list[Op]:
    """The products with ``value`` or a reshaped ``value``; empty if ``value`` has other uses."""
    products: list[Op] = []
    for op in value.consumers:
        factor = value
        if record_of(op).moves and len(op.outputs) == 1 and len(op.output.consumers) == 1:
            factor, op = op.output, op.output.consumers[0]
        variable = op.variable
        plain = op.name in {"mul", "mul_"} and len(op.inputs) == 2 and len(variable) == 1
        if not plain or variable[0].shape != op.output.shape or factor not in op.inputs:
            return []
        if op.name == "mul_" and op["self"] is not variable[0]:
            return []
        if (value.name or "").rpartition(".")[0] != op.call.path:
            return []
        products.append(op)
    axes = {constant_axis(op, variable[0]) for op in products}
    return products if len(axes) == 1 and not axes & {None, -1} else []


def _parameter_layer(
    graph: Graph, name: str, products: list[Op], factor: torch.Tensor
) -> AffineLayer:
    axis = constant_axis(products[0], products[0].variable[0])
    scale = factor.detach().double().flatten()
    path, _, attribute = name.rpartition(".")
    affine_layer = AffineLayer(name=name, module_path=path, is_batchnorm=False, axis=axis)
    affine_layer.affine = Affine(scale, torch.zeros_like(scale), constant=False)
    affine_layer.removals = (
        DropScale(path, attribute, _may_be_absent(products[0].call, attribute)),
    )
    affine_layer.sites = [merge_ops(graph, [op], axis) for op in products]
    return affine_layer


def _may_be_absent(call: Call, name: str) -> bool:
    """Whether the forward also runs with the parameter set to None, as for optional parameters."""
    module = copy.copy(call.module)  # a new module object that shares the tensors
    module._parameters = {**call.module._parameters, name: None}
    try:
        with torch.inference_mode():
            module.forward(*(torch.zeros(value.shape, dtype=value.dtype) for value in call.inputs))
    except Exception:
        return False
    return True
