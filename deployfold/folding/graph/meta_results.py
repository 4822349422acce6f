"""The results of common operators on the meta device, which knows shapes and no numbers.

Torch computes many results there in Python code that is slower than the operator itself and imports
the compiler and sympy, which takes seconds. A rule here makes an empty tensor of the shape, dtype
and strides that the operator's kernel on a CPU gives. The rule returns ``None`` for anything
unusual: torch's own code then runs, and raises the error if the arguments are wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

from torch import Tensor

from deployfold.folding.operators.links import rectifies
from deployfold.folding.operators.table import OPERATORS

Arguments = dict[str, Any]


def meta_result(function: Any, arguments: Arguments) -> Tensor | None:
    """The result of ``function`` on the meta device; ``None`` if torch must compute it.

    Args:
        arguments: the arguments by the names of the operator's schema.
    """
    name = str(function.overloadpacket.__name__)
    rule = _RULES.get(name.rstrip("_"))
    named = (arguments[key] for key in ("self", "input", "query") if key in arguments)
    first = next(named, next(iter(arguments.get("tensors", ())), None))
    if rule is None or not _is_plain(first) or arguments.get("dtype") is not None:
        return None
    result = rule(first, arguments)
    if result is None or not name.endswith("_"):
        return result
    return first if result.shape == first.shape else None


def _is_plain(item: Any) -> TypeGuard[Tensor]:
    return isinstance(item, Tensor) and item.is_meta and item.is_floating_point()


def _alike(first: Tensor, *others: Tensor | None) -> bool:
    """Whether the tensors lie on the meta device, in order and in the dtype of ``first``."""
    return first.is_contiguous() and all(
        item is None or (item.is_meta and item.dtype is first.dtype and item.is_contiguous())
        for item in others
    )


def _pointwise(x: Tensor, _: Arguments) -> Tensor:
    return x.clone()


def _binary(x: Tensor, given: Arguments) -> Tensor | None:
    other = given["other"]
    if given.get("rounding_mode") is not None:
        return None
    if isinstance(other, (int, float)):
        return x.clone()
    if not isinstance(other, Tensor) or not other.is_meta or other.dtype is not x.dtype:
        return None
    same = other.shape == x.shape and other.stride() == x.stride()
    return x.clone() if same or (x.is_contiguous() and _spreads(other, x)) else None


def _spreads(small: Tensor, large: Tensor) -> bool:
    """Whether ``small`` is broadcast to the shape of ``large``."""
    ends = zip(reversed(small.shape), reversed(large.shape), strict=False)
    return small.dim() <= large.dim() and all(one in (1, size) for one, size in ends)


def _batch_norm(x: Tensor, given: Arguments) -> Tensor | None:
    mean = given["running_mean"]
    known = not given["training"] and mean is not None and mean.shape == x.shape[1:2]
    return x.clone() if known else None


def _layer_norm(x: Tensor, given: Arguments) -> Tensor | None:
    shape = tuple(given["normalized_shape"])
    parameters = [item for item in (given["weight"], given["bias"]) if item is not None]
    fits = tuple(x.shape[-len(shape) :]) == shape
    if not fits or any(tuple(item.shape) != shape for item in parameters):
        return None
    return x.new_empty(x.shape)


def _linear(x: Tensor, given: Arguments) -> Tensor | None:
    weight, bias = given["weight"], given["bias"]
    if not _alike(x, weight, bias) or weight.dim() != 2 or x.shape[-1:] != weight.shape[1:]:
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    return x.new_empty((*x.shape[:-1], len(weight)))


def _convolution(x: Tensor, given: Arguments) -> Tensor | None:
    weight, bias, padding = given["weight"], given["bias"], given["padding"]
    geometry = given["stride"], padding, given["dilation"]
    axes = weight.dim() - 2
    if x.dim() != weight.dim() or not _alike(x, weight, bias) or isinstance(padding, str):
        return None
    groups = given["groups"]
    if x.shape[1] != weight.shape[1] * groups or len(weight) % groups:
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    stride, pad, step = (list(item) * (axes if len(item) == 1 else 1) for item in geometry)
    sizes = [
        (x.shape[axis + 2] + 2 * pad[axis] - step[axis] * (weight.shape[axis + 2] - 1) - 1)
        // stride[axis]
        + 1
        for axis in range(axes)
    ]
    return x.new_empty((len(x), len(weight), *sizes)) if min(sizes) > 0 else None


def _joined(x: Tensor, given: Arguments) -> Tensor | None:
    tensors, axis = given["tensors"], given["dim"]
    if not -x.dim() <= axis < x.dim() or not _alike(x, *tensors):
        return None
    shapes = [list(item.shape) for item in tensors]
    if any(len(shape) != x.dim() for shape in shapes):
        return None
    whole = sum(shape.pop(axis) for shape in shapes)
    if any(shape != shapes[0] for shape in shapes):
        return None
    sizes = list(x.shape)
    sizes[axis] = whole
    return x.new_empty(sizes)


def _attention(query: Tensor, given: Arguments) -> Tensor | None:
    key, value = given["key"], given["value"]
    if not query.shape[:-2] == key.shape[:-2] == value.shape[:-2] or query.dim() < 3:
        return None
    if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        return None
    return query.new_empty((*query.shape[:-1], value.shape[-1]))


def _resized(x: Tensor, given: Arguments) -> Tensor | None:
    sizes = given["output_size"]
    if sizes is None or len(sizes) != x.dim() - 2 or not x.is_contiguous() or min(sizes) < 1:
        return None
    return x.new_empty((*x.shape[:2], *sizes))


def _mean(x: Tensor, given: Arguments) -> Tensor | None:
    axes, rank = given.get("dim"), x.dim()
    if not axes or not all(-rank <= axis < rank for axis in axes) or not x.is_contiguous():
        return None
    gone = {axis % rank for axis in axes}
    if len(gone) < len(axes):
        return None
    sizes = [1 if axis in gone else size for axis, size in enumerate(x.shape)]
    kept = [size for axis, size in enumerate(sizes) if given["keepdim"] or axis not in gone]
    return x.new_empty(kept)


_POINTWISE = [one.name for one in OPERATORS.values() if one.activation or one.links is rectifies]
_RULES: dict[str, Callable[[Tensor, Arguments], Tensor | None]] = {
    **dict.fromkeys(_POINTWISE, _pointwise),
    **dict.fromkeys(("add", "sub", "mul", "div"), _binary),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys((name for name in OPERATORS if name.startswith("upsample_")), _resized),
    "adaptive_avg_pool2d": _resized,
    "batch_norm": _batch_norm,
    **dict.fromkeys(("cat", "concat", "concatenate"), _joined),
    "layer_norm": _layer_norm,
    "linear": _linear,
    "mean": _mean,
    "scaled_dot_product_attention": _attention,
}
