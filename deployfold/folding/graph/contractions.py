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

from .equation import Equation
from .graph import Graph, Op, Value

_PRODUCTS = {
    "matmul": ("self", "other"),
    "mm": ("self", "mat2"),
    "bmm": ("self", "mat2"),
    "linear": ("input", "weight"),
}
_CONTRACTIONS = {"tensordot": ("self", "other"), "inner": ("self", "other"), "mv": ("self", "vec")}
"""Products that sum over given axes, or over the last axis of both factors."""
_TURNS = frozenset("t transpose permute numpy_T swapaxes swapdims movedim mT matrix_H".split())


@dataclass(frozen=True)
class Form:
    """How a stored tensor is read as the weight ``(groups * out, in)`` of a linear layer.

    Attributes:
        order: the permutation of the stored axes to ``(groups, out, in)``.
        sizes: the sizes of the permuted axes.
        rows, columns: the numbers of output channels, and of input channels in each group.
        bias_sizes, bias_order: the axes of the output channels, and their order in the result.
        bias_shape: the shape of a bias that is added to the result.
    """

    order: tuple[int, ...]
    sizes: tuple[int, ...]
    rows: int
    columns: int
    bias_sizes: tuple[int, ...]
    bias_order: tuple[int, ...]
    bias_shape: tuple[int, ...]

    def matrix(self, stored: Tensor) -> Tensor:
        """The stored tensor as the weight of the layer."""
        return stored.permute(self.order).reshape(self.rows, self.columns)

    def stored(self, matrix: Tensor) -> Tensor:
        """The weight of the layer in the form in which the model stores it."""
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return matrix.reshape(self.sizes).permute(back)

    def bias(self, bias: Tensor) -> Tensor:
        """The bias of the layer in the shape in which it is added to the result."""
        return bias.reshape(self.bias_sizes).permute(self.bias_order).reshape(self.bias_shape)


def write_as_layer(graph: Graph, op: Op) -> None:
    """Rewrite ``op`` as a linear layer in ``graph`` if it is a product with a stored tensor.

    A plain layer stays as it is.
    """
    found = _factors(op)
    if found is None or op.inputs.count(found[1]) > 1:
        return
    source, weight, axes, letters, result = found
    sizes = dict(zip(axes, source.shape, strict=True))
    lengths = dict(zip(letters, weight.shape, strict=True))
    # An axis of length 1 may be broadcast, and has no part in the product then.
    wide = [one for one in letters if sizes.get(one) == 1 != lengths[one]]
    single = [one for one in letters if lengths[one] == 1 != sizes.get(one, 1)]
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
    )
    position = graph.operators.pop(op)
    for value in op.inputs:
        value.drop_reader(op)
        turn = value.producer
        if turn is not None and turn.inputs == [weight] and not value.consumers:
            weight.drop_reader(turn)
            graph.remove(turn)
    before = [sizes[one] for one in rest]
    value = _moved(graph, op, position, source, "permute", "dims",
                   [axes.index(one) for one in (*wide, *rest, *groups, *summed)])  # fmt: skip
    width = prod(lengths[one] for one in (*groups, *summed))
    value = _moved(graph, op, position, value, "reshape", "shape", [*before, width])
    bias: Value | None = op.arguments.get("bias")
    arguments = {"input": value, "weight": weight, "bias": bias, "form": form,
                 "groups": prod(lengths[one] for one in groups)}  # fmt: skip
    layer = Op(op.name, None, arguments, op.call, op.occurrence)
    layer.inputs = [one for one in (value, weight, bias) if one is not None]
    layer.outputs = [Value((*before, form.rows), op.output.dtype, producer=layer)]
    graph.insert(layer, position)
    apart = [*before, *form.bias_sizes]
    value = _moved(graph, op, position, layer.output, "reshape", "shape", apart)
    dims = [(*rest, *channels).index(one) for one in result]
    _moved(graph, op, position, value, "permute", "dims", dims, op.output)


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
    elif op.name in _PRODUCTS and len(op.inputs) > 1:
        tensors = [op.arguments[key] for key in _PRODUCTS[op.name]]
    else:
        return None
    ranks = [len(one.shape) for one in tensors]
    if len(tensors) != 2:
        return None
    equation = _equation(op, ranks)
    for index in (1, 0):
        source, (weight, order) = tensors[1 - index], _stored(tensors[index])
        if weight.name is not None and not source.constant:
            letters = "".join(equation.operands[index][axis] for axis in order)
            if "weight" in op.arguments and letters == equation.operands[index]:
                return None  # a layer already
            return source, weight, equation.operands[1 - index], letters, equation.result
    return None


def _stored(value: Value) -> tuple[Value, Sequence[int]]:
    """The tensor that ``value`` permutes, and for each of its axes the axis of ``value``."""
    plain = range(len(value.shape))
    turn = value.producer
    if turn is None or turn.name not in _TURNS or turn.inputs[0].name is None:
        return value, plain
    # Axes of different lengths show where each went.
    lengths = [axis + 2 for axis in plain]
    went = turn.rerun({turn.inputs[0]: torch.empty(lengths)}).shape
    return turn.inputs[0], [list(went).index(length) for length in lengths]


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
    lead = ascii_letters[3 : 3 + max(0, *(rank - 2 for rank in ranks))]
    first, second = (lead[len(lead) - max(0, rank - 2) :] for rank in ranks)
    left, right = ("ab" if ranks[0] > 1 else "b"), ("bc" if ranks[1] > 1 else "b")
    turned = "cb" if op.name == "linear" else right
    return Equation((first + left, second + turned), lead + left[:-1] + right[1:])
