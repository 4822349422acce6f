"""Rewrites products with a stored tensor of any rank as linear layers in the graph.

``einsum("bcl,chd->bhdl", x, w)`` multiplies the channels ``c`` of ``x`` by a matrix of shape
``(h d, c)``. The graph then holds, for this one operator: a permutation and a reshape of ``x``, a
linear layer, and a reshape and a permutation of the result. Axes of ``w`` that both ``x`` and the
result have are the groups of the layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from math import prod
from string import ascii_letters
from typing import Any

import torch
from torch import Tensor

from .addends import SUMS, addend, insert_sum
from .equation import Equation
from .graph import Graph, Op, Value

_PRODUCTS = {
    "matmul": ("self", "other"),
    "mm": ("self", "mat2"),
    "bmm": ("self", "mat2"),
    "linear": ("input", "weight"),
    "linalg_multi_dot": ("self", "other"),
    "chain_matmul": ("self", "other"),
    **SUMS,
}
_CONTRACTIONS = {"tensordot": ("self", "other"), "inner": ("self", "other"), "mv": ("self", "vec")}
"""Products that sum over given axes, or over the last axis of both factors."""
_TURNS = frozenset(
    "t transpose permute numpy_T swapaxes swapdims movedim mT matrix_H expand unsqueeze".split()
)


@dataclass(frozen=True)
class Form:
    """How a stored tensor is read as the weight ``(groups * out, in)`` of a linear layer.

    Attributes:
        order: the permutation of the stored axes to ``(groups, out, in)``.
        sizes: the sizes of the permuted axes.
        rows, columns: the numbers of output channels, and of input channels in each group.
        bias_sizes, bias_order: the axes of the output channels, and their order in the result.
        bias_shape: the shape of a bias that is added to the result.
        factor, bias_factor: the numbers by which the operator multiplies the stored tensor and the
            stored bias: ``alpha`` and ``beta`` of ``addmm``.
    """

    order: tuple[int, ...]
    sizes: tuple[int, ...]
    rows: int
    columns: int
    bias_sizes: tuple[int, ...]
    bias_order: tuple[int, ...]
    bias_shape: tuple[int, ...]
    factor: float = 1.0
    bias_factor: float = 1.0

    def matrix(self, stored: Tensor) -> Tensor:
        """The stored tensor as the weight of the layer."""
        return self.factor * stored.permute(self.order).reshape(self.rows, self.columns)

    def stored(self, matrix: Tensor) -> Tensor:
        """The weight of the layer in the form in which the model stores it."""
        return matrix.div(self.factor).reshape(self.sizes).permute(_inverse(self.order))

    def bias(self, bias: Tensor) -> Tensor:
        """The bias of the layer in the shape in which it is added to the result."""
        return bias.reshape(self.bias_sizes).permute(self.bias_order).reshape(self.bias_shape)

    def vector(self, stored: Tensor) -> Tensor:
        """The stored bias, of the shape ``bias_shape`` behind any ones, as that of the layer."""
        turned = stored.reshape([self.bias_sizes[axis] for axis in self.bias_order])
        return self.bias_factor * turned.permute(_inverse(self.bias_order)).flatten()


def _inverse(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


def write_as_layer(graph: Graph, op: Op) -> None:
    """Rewrite ``op`` as a linear layer in ``graph`` if it is a product with a stored tensor.

    A plain layer stays as it is.
    """
    found = _factors(op)
    if found is None or op.inputs.count(found[1]) > 1 or not op.arguments.get("alpha", 1):
        return
    source, weight, axes, letters, result = found
    sizes = dict(zip(axes, source.shape, strict=True))
    lengths = dict(zip(letters, weight.shape, strict=True))
    # An axis of length 1 may be broadcast, and has no part in the product then.
    wide = [one for one in letters if sizes.get(one) == 1 != lengths[one]]
    single = [
        one
        for one in letters
        if lengths[one] == 1 and (sizes.get(one, 1) != 1 or one not in axes + result)
    ]
    inner = [one for one in letters if one not in single]
    read = [one for one in axes if one not in wide]
    groups = [one for one in inner if one in read and one in result]
    out = [one for one in inner if one not in read and one in result]
    summed = [one for one in inner if one in read and one not in result]
    rest = [one for one in read if one not in groups and one not in summed]
    once = all(len({*one}) == len(one) for one in (axes, letters, result))
    kept = [one for one in result if one not in groups and one not in out]
    same = all(sizes[one] == lengths[one] for one in (*groups, *summed))
    if not (once and same and summed) or sorted(kept) != sorted(rest):
        return
    if len(groups) + len(out) + len(summed) < len(inner):
        return
    order = [letters.index(one) for one in (*single, *groups, *out, *summed)]
    channels = (*groups, *out)
    form = Form(
        tuple(order),
        tuple(weight.shape[axis] for axis in order),
        prod(lengths[one] for one in channels),
        prod(lengths[one] for one in summed),
        tuple(lengths[one] for one in channels),
        tuple(channels.index(one) for one in result if one in channels),
        _without_leading_ones(lengths[one] if one in channels else 1 for one in result),
        op.arguments.get("alpha", 1),
        op.arguments.get("beta", 1) or 1,
    )
    added = bias = addend(op)
    if added is not None and (
        added.name is None
        or op.name.endswith("_")
        or _without_leading_ones(added.shape) != form.bias_shape
    ):
        bias = None
    position = graph.remove(op)
    for value in op.inputs:
        while value.constant and value is not added and value.producer and not value.consumers:
            turn = value.producer
            value = turn.inputs[0]
            graph.remove(turn)
    before = [sizes[one] for one in rest]
    value = _moved(graph, op, position, source, "permute", "dims",
                   [axes.index(one) for one in (*wide, *rest, *groups, *summed)])  # fmt: skip
    width = prod(lengths[one] for one in (*groups, *summed))
    value = _moved(graph, op, position, value, "reshape", "shape", [*before, width])
    arguments = {"input": value, "weight": weight, "bias": bias, "form": form,
                 "groups": prod(lengths[one] for one in groups)}  # fmt: skip
    layer = Op(op.name, None, arguments, op.call, op.occurrence)
    layer.inputs = [one for one in (value, weight, bias) if one is not None]
    layer.outputs = [Value((*before, form.rows), op.output.dtype, producer=layer)]
    graph.insert(layer, position)
    apart = [*before, *form.bias_sizes]
    value = _moved(graph, op, position, layer.output, "reshape", "shape", apart)
    dims = [(*rest, *channels).index(one) for one in result]
    if added is None or bias is not None:
        _moved(graph, op, position, value, "permute", "dims", dims, op.output)
    else:
        product = _moved(graph, op, position, value, "permute", "dims", dims)
        insert_sum(graph, op, position, product, added, op.output)


def split_chain(graph: Graph, op: Op) -> None:
    """Replace a product of several matrices by the product of all but one, times the last one.

    The last one is the right one, or the left one if only the right one depends on the input.
    """
    factors: list[Value] = op["tensors" if "tensors" in op.arguments else "matrices"]
    right = factors[-1].constant
    inner, outer = (factors[:-1], factors[-1]) if right else (factors[1:], factors[0])
    position = graph.remove(op)
    rest = inner[0]
    if len(inner) > 1:
        shape = (*inner[0].shape[:-1], *inner[-1].shape[1:])
        constant = all(value.constant for value in inner)
        rest = Value(shape, op.output.dtype, constant=constant)
        rest.producer = Op(op.name, op.function, {"tensors": inner}, op.call, op.occurrence, inner)
        rest.producer.outputs = [rest]
        graph.insert(rest.producer, position)
    op.inputs = [rest, outer] if right else [outer, rest]
    op.arguments = dict(zip(_PRODUCTS[op.name], op.inputs, strict=True))
    graph.insert(op, position)
    write_as_layer(graph, op)


def _without_leading_ones(shape: Iterable[int]) -> tuple[int, ...]:
    return tuple(dropwhile(lambda size: size == 1, shape)) or (1,)


def _moved(
    graph: Graph, op: Op, position: int, source: Value, name: str, key: str, item: list[int],
    result: Value | None = None,
) -> Value:  # fmt: skip
    """Insert an operator that permutes or reshapes ``source``; return its result."""
    function: Any = getattr(torch.ops.aten, name).default
    shape = [source.shape[axis] for axis in item] if name == "permute" else item
    move = Op(name, function, {"self": source, key: item}, op.call, op.occurrence, [source])
    result = result or Value(tuple(shape), source.dtype)
    result.producer = move
    move.outputs = [result]
    graph.insert(move, position)
    return result


def _factors(op: Op) -> tuple[Value, Value, str, str, str] | None:
    """The variable and the stored factor of a product, the letters of both and of the result."""
    if op.name == "einsum":
        tensors = op["tensors"]
    elif op.name in _CONTRACTIONS:
        tensors = [op.arguments[key] for key in _CONTRACTIONS[op.name]]
    elif op.name.rstrip("_") in _PRODUCTS and len(op.inputs) > 1:
        tensors = [op.arguments[key] for key in _PRODUCTS[op.name.rstrip("_")]]
    else:
        return None
    ranks = [len(one.shape) for one in tensors]
    if len(tensors) != 2:
        return None
    equation = _equation(op, ranks)
    for index in (1, 0):
        source, (weight, order) = tensors[1 - index], _stored(tensors[index])
        if weight.name is not None and not source.constant:
            given = equation.operands[index]
            new = iter(set(ascii_letters).difference(*equation.operands))
            letters = "".join(next(new) if axis is None else given[axis] for axis in order)
            if "weight" in op.arguments and letters == given:
                return None  # a layer already
            return source, weight, equation.operands[1 - index], letters, equation.result
    return None


def _stored(value: Value) -> tuple[Value, list[int | None]]:
    """The tensor of which ``value`` is a view, and for each of its axes the axis of ``value``.

    An axis of length 1 that the view broadcasts has none.
    """
    views: list[Op] = []
    stored = value
    while stored.producer is not None and stored.producer.name in _TURNS:
        views.append(stored.producer)
        stored = stored.producer.inputs[0]
    # Axes of different strides show where each went. A new axis has a stride of 0 or 1, or the
    # stride of an axis times its length, which is none of these unless the length is 1.
    rank = len(stored.shape)
    strides = tuple(range(rank + 1, 2 * rank + 1))
    view = torch.empty_strided(stored.shape, strides, device="meta")
    for op in reversed(views):
        view = op.rerun({op.inputs[0]: view})
    axes = {stride: axis for axis, stride in enumerate(view.stride())}
    return stored, [axes.get(stride) for stride in strides]


def _equation(op: Op, ranks: list[int]) -> Equation:
    if op.name == "einsum":
        return Equation.read(op["equation"], ranks)
    if op.name not in _CONTRACTIONS:
        return _product(op, ranks)
    axes = [op.arguments.get(f"dims_{key}", [-1]) for key in _CONTRACTIONS["tensordot"]]
    axes = [[axis % rank for axis in each] for each, rank in zip(axes, ranks, strict=True)]
    first = ascii_letters[: ranks[0]]
    second = list(ascii_letters[ranks[0] : sum(ranks)])
    for one, other in zip(*axes, strict=True):
        second[other] = first[one]
    summed = {first[one] for one in axes[0]}
    result = "".join(letter for letter in (*first, *second) if letter not in summed)
    return Equation((first, "".join(second)), result)


def _product(op: Op, ranks: list[int]) -> Equation:
    """The equation of a matrix product, whose leading axes are aligned at their end."""
    if op.name.rstrip("_") == "addbmm":  # adds up the products of the batch
        return Equation(("dab", "dbc"), "ac")
    lead = ascii_letters[3 : 3 + max(0, *(rank - 2 for rank in ranks))]
    first, second = (lead[len(lead) - max(0, rank - 2) :] for rank in ranks)
    left, right = ("ab" if ranks[0] > 1 else "b"), ("bc" if ranks[1] > 1 else "b")
    turned = "cb" if op.name == "linear" else right
    return Equation((first + left, second + turned), lead + left[:-1] + right[1:])
