"""Links for products of two tensors: attention, and einsums."""

from __future__ import annotations

from deployfold.folding.graph.constants import number_of
from deployfold.folding.graph.equation import Equation
from deployfold.folding.graph.graph import Op, Value

from .links import Link, scaled
from .partial import NotSeparable
from .routes import Aligned


def attends(op: Op) -> list[Link]:
    """Links for attention, ``weights @ values``: the weights are a softmax, so their sum is 1."""
    if op.name == "scaled_dot_product_attention":
        value, plain = op["value"], op["attn_mask"] is None and not op["dropout_p"]
        if not plain or value.constant or value.shape[:-2] != op["query"].shape[:-2]:
            raise NotSeparable("the attention has a mask, dropout or grouped heads")
        return [Link(op.output, ((value, Aligned(value, op.output, frozenset({-2})), 1.0),))]
    if len(op.inputs) == 2 and min(len(value.shape) for value in op.inputs) >= 2:
        first, second = op.inputs
        for weights, values, axis in ((first, second, -2), (second, first, -1)):
            # The product sums over ``axis`` of the values and over the other axis of the weights.
            if not values.constant and _adds_to_one(weights, -3 - axis):
                route = Aligned(values, op.output, frozenset({axis}))
                return [Link(op.output, ((values, route, 1.0),))]
    if len(op.variable) == 1:
        return unread(op)
    raise NotSeparable("neither factor is a softmax over the axis that the product sums")


def contracts(op: Op) -> list[Link]:
    """Links for einsums that scale one tensor by a stored factor, or that attend.

    An einsum with a stored matrix is a linear layer instead.
    """
    tensors: list[Value] = op["tensors"]
    equation = Equation.read(op["equation"], [len(one.shape) for one in tensors])
    for index, source in enumerate(tensors if len(tensors) == 2 else ()):
        other, axes = tensors[1 - index], equation.operands[index]
        rest, result = equation.operands[1 - index], equation.result
        if source.constant or len({*axes}) < len(axes):
            continue
        if other.constant and axes == result and {*rest} <= {*axes} and len({*rest}) == len(rest):
            stored = number_of(other)
            if stored is None:
                raise NotSeparable("the factor is not stored in the model")
            order = sorted(range(len(rest)), key=lambda axis: result.index(rest[axis]))
            shape = [other.shape[rest.index(one)] if one in rest else 1 for one in result]
            return scaled(op, source, stored.double().permute(order).reshape(shape))
        summed = [one for one in rest if one in axes and one not in result]
        added = [one for one in rest if one not in axes]
        moved = len(summed) == len(added) == 1 and axes.replace(summed[0], added[0]) == result
        if moved and _adds_to_one(other, rest.index(summed[0]) - len(rest)):
            over = frozenset({axes.index(summed[0]) - len(axes)})
            return [Link(op.output, ((source, Aligned(source, op.output, over), 1.0),))]
    raise NotSeparable("the einsum is neither a product with a stored tensor nor an attention")


def bag_barrier(op: Op) -> str:
    """Why an ``embedding_bag`` is no embedding; empty if it is the mean of some of its rows.

    The rows of an embedding may take a shift, which then passes the mean.
    """
    if op["mode"] != 1:
        what = "adds up" if op["mode"] == 0 else "takes the largest of"
        return f"it {what} rows of its weight, which no shift passes"
    left_out = op["padding_idx"] is not None and op["padding_idx"] >= 0
    if left_out or op["per_sample_weights"] is not None:
        return "it weights or leaves out rows of its weight"
    starts = number_of(op["offsets"])
    length = op["indices"].shape[0]
    if starts is None or not bool((starts.diff(append=starts.new_tensor([length])) > 0).all()):
        return "a bag without rows gives zeros, which a shift would have to change"
    return ""


def bags(op: Op) -> list[Link]:
    """The reason why no map passes an ``embedding_bag``."""
    raise NotSeparable(bag_barrier(op))


def multiplies_two(op: Op) -> list[Link]:
    """The reason why no map passes a product of computed tensors."""
    raise NotSeparable("it multiplies two tensors that depend on the input")


def unread(op: Op) -> list[Link]:
    """The reason why no map passes products that are not written as a layer."""
    factors = [
        value for value in op.inputs if "beta" not in op.arguments or value is not op["self"]
    ]
    if not any(value.constant for value in factors):
        return multiplies_two(op)
    if any(value.constant and value.name is None for value in factors):
        raise NotSeparable("it multiplies by a tensor that the forward computes")
    raise NotSeparable(
        "folding does not read this form of product; F.linear or torch.matmul in its place folds"
    )


_SHAPES_ALONE = frozenset({"reshape", "view", "flatten", "expand", "unsqueeze", "squeeze"})
_SAME = frozenset({"contiguous", "clone", "dropout", "feature_dropout", "alpha_dropout"})


def _adds_to_one(value: Value, axis: int) -> bool:
    """Whether ``value`` is a softmax along ``axis``, which counts from the end."""
    op = value.producer
    while op is not None:
        rank = len(value.shape)
        if op.name in {"softmax", "_softmax"}:
            return int(op["dim"]) % rank - rank == axis
        source = op.inputs[0]
        if op.name == "transpose" and {op["dim0"] % rank, op["dim1"] % rank} == {
            rank - 1,
            rank - 2,
        }:
            axis = -3 - axis
        elif op.name in _SHAPES_ALONE:
            if axis != -1 or source.shape[-2:] != value.shape[-2:]:
                return False
        elif op.name not in _SAME or op.arguments.get("train", False):
            return False
        value, op = source, source.producer
    return False
