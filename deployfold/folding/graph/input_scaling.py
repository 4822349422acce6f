"""Finds arithmetic on a model's input, such as ``(x / 255 - mean) / std`` in its forward.

A chain of sums, differences, products and quotients with constants is one affine layer. This module
finds chains inside larger forwards; :mod:`.arithmetic` finds modules that are one such chain.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deployfold.folding.algebra import Affine
from deployfold.folding.operators.partial import NotSeparable, along
from deployfold.folding.operators.table import links_of
from deployfold.folding.plan import Bypass
from deployfold.folding.rewrite.forward import cannot_rewrite

from .affine_layer import AffineLayer
from .arithmetic import constant_axis, merge_ops
from .graph import Graph, Op, Value

_STEPS = frozenset({"add", "sub", "rsub", "mul", "div"})
_CASTS = frozenset({"_to_copy", "to", "type_as", "contiguous", "clone", "detach"})


def input_scalings(graph: Graph) -> list[AffineLayer]:
    """Find every removable chain of arithmetic that begins at an input of the model.

    The function merges each chain into one operator of ``graph``. The dtype may change before the
    chain but not within the chain.
    """
    found: dict[object, AffineLayer] = {}
    for value in graph.inputs:
        chain = _chain(value)
        if not chain:
            continue
        key = tuple((op.call.path, op.name, op.occurrence) for op in chain)
        if key not in found:
            layer = _layer(chain, key)
            if layer is None:
                continue
            found[key] = layer
        found[key].sites.append(merge_ops(graph, chain, found[key].axis))
    return list(found.values())


def _chain(value: Value) -> list[Op]:
    """The operators of the chain that begins at ``value``, in the order they ran."""
    chain: list[Op] = []
    while len(value.consumers) == 1 and not value.output:
        op = value.consumers[0]
        step = op.name in _STEPS or (op.name.rstrip("_") in _STEPS and value.producer is not None)
        if len(op.outputs) != 1 or op.variable != [value] or op.output.shape != value.shape:
            break
        if (
            step
            and value.dtype.is_floating_point | (not chain)
            and op.output.dtype.is_floating_point
        ):
            if chain and op.call is not chain[0].call:
                break
            chain.append(op)
        elif chain or op.name not in _CASTS:
            break
        value = op.output
    return chain


def _layer(chain: list[Op], key: tuple[tuple[str, str, int], ...]) -> AffineLayer | None:
    source = chain[0].variable[0]
    axes = {constant_axis(op, source) for op in chain} - {None}
    if len(axes) > 1 or -1 in axes:
        return None
    axis = axes.pop() if axes else None
    size = source.shape[1 if axis is None else axis] if len(source.shape) > 1 else 1
    affine = Affine(torch.ones(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64))
    for op in chain:
        step = _step(op, axis, size)
        if step is None:
            return None
        affine = step.after(affine)
    scaled = bool((affine.scale != 1).any()) and bool((affine.scale != 0).all())
    if not affine.finite or not scaled:
        return None
    path, module = chain[0].call.path, chain[0].call.module
    if any(cannot_rewrite(module, op.name, op.occurrence) is not None for op in chain):
        return None
    return AffineLayer(
        name=f"{path}.input scaling".lstrip("."),
        module_path=path,
        is_batchnorm=False,
        functional=True,
        axis=axis,
        affine=affine,
        removals=tuple(Bypass(*place) for place in key),
    )


def _step(op: Op, axis: int | None, size: int) -> Affine | None:
    """One operator as an affine map of its variable input; None if not affine or not known."""
    try:
        (link,) = links_of(op)
        ((_, _, coefficient),) = link.inputs
        numbers = (coefficient, link.constant_numbers())
        scale, shift = (_along(one, axis, size) for one in numbers)
    except NotSeparable:
        return None
    return Affine(scale, shift, link.constant != 0.0)


def _along(number: float | Tensor, axis: int | None, size: int) -> Tensor:
    """A number, or a partly known tensor that varies along ``axis`` alone, as ``(size,)``."""
    if not isinstance(number, Tensor):
        return torch.full((size,), number, dtype=torch.float64)
    return along(number, 0 if axis is None else axis % number.dim()).expand(size)
