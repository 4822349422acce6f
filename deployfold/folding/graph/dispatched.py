"""Normalises the operators that torch dispatches: one name and one set of arguments for each."""

from __future__ import annotations

from typing import Any

import torch

_SHAPE_OF_OTHER = {
    "view_as": ("reshape", "shape"),
    "reshape_as": ("reshape", "shape"),
    "expand_as": ("expand", "size"),
}
_SHAPE_OF_SELF = ("_like", "_shape_as_tensor", "new_zeros", "new_ones", "new_full", "new_empty")

_STACKS = {"hstack": (1, 1), "vstack": (0, 2), "row_stack": (0, 2), "dstack": (2, 3),
           "column_stack": (1, 2)}  # fmt: skip
"""Concatenations by other names: the axis, and the number of axes that tensors need for it."""

LIFTS = frozenset({torch.ops.aten.lift_fresh.default, torch.ops.aten.detach_.default})
"""The operators that ``torch.tensor``, ``torch.as_tensor`` and the like run on a new tensor."""


def in_one_form(
    name: str, function: Any, arguments: dict[str, Any]
) -> tuple[str, Any, dict[str, Any]]:
    """Replace shape-only tensor arguments by their shape, and ``hstack`` and its kin by ``cat``.

    An operator such as ``view_as`` reads only the shape of a tensor, so the tensor is no input.
    """
    if name in _SHAPE_OF_OTHER:
        plain, keyword = _SHAPE_OF_OTHER[name]
        shape = list(arguments["other"].shape)
        packet = getattr(torch.ops.aten, plain)
        return plain, packet.default, {"self": arguments["self"], keyword: shape}
    if name in _STACKS:
        axis, least = _STACKS[name]
        rank = min(len(one.shape) for one in arguments["tensors"])
        if rank < least:  # such tensors get further axes
            return name, function, arguments
        axis = min(axis, rank - 1)
        return "cat", torch.ops.aten.cat.default, {**arguments, "dim": axis}
    if name.endswith(_SHAPE_OF_SELF):
        return name, function, {key: item for key, item in arguments.items() if key != "self"}
    return name, function, arguments


_PRODUCTS = {"matmul": "other", "mm": "mat2"}
"""Matrix products, with the name of the second factor; the first is ``self``."""


def with_layer_names(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Add the argument names of ``linear`` (input, weight, bias) to an equivalent layer.

    Equivalent layers are embeddings, and matrix products whose second factor is a stored matrix.
    """
    if name == "embedding":
        return {**arguments, "input": arguments["indices"], "bias": None}
    if name in ("index", "index_select"):
        return _rows_of_parameter(arguments) or arguments
    if name not in _PRODUCTS:
        return arguments
    weight = arguments[_PRODUCTS[name]]
    if weight.name is None or len(weight.shape) != 2:
        return arguments
    return {**arguments, "input": arguments["self"], "weight": weight, "bias": None}


def _rows_of_parameter(arguments: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments of the embedding that ``weight[indices]`` is; None for other indexing."""
    weight, indices = arguments["self"], arguments.get("indices")
    if indices is None:
        indices = [arguments["index"]] if arguments["dim"] == 0 else []
    if weight.name is None or len(weight.shape) != 2 or len(indices) != 1:
        return None
    (rows,) = indices
    if rows is None or rows.constant or rows.dtype == torch.bool:
        return None
    return {"input": rows, "weight": weight, "bias": None}


def storage_of(tensor: torch.Tensor) -> int:
    """A number that tensors on one storage share."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse tensors and others have no storage
        return id(tensor)
