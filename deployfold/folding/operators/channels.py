"""Where the channels of a tensor lie, and how operators that only move data carry them along.

A value's channels are an axis and, for every position on that axis, the channel it belongs to.
How an operator moves data is not written down operator by operator: it is run once on a tensor
that holds its own element numbers, which shows where each element went.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deployfold.folding.graph.graph import Op, Value

FREE = -1
"""An element that nobody reads: it may be scaled and shifted as is convenient."""
KEEP = -2
"""An element that somebody else reads: it has to stay as it is."""

MOVES = frozenset(
    """
    alias channel_shuffle chunk clone constant_pad_nd contiguous detach diagonal expand
    flatten flip im2col movedim narrow native_channel_shuffle pad permute pixel_shuffle
    pixel_unshuffle reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave
    replication_pad1d replication_pad2d replication_pad3d reshape roll rot90 select slice split
    split_with_sizes squeeze swapaxes swapdims t tensor_split tile transpose unbind unflatten
    unfold unsafe_chunk unsafe_split unsqueeze upsample_nearest1d upsample_nearest2d
    upsample_nearest3d view _reshape_alias _unsafe_view _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d
    """.split()
)
"""Operators whose every output element is a copy of one input element, or a padding constant."""

_MOVES_BY_INDEX = frozenset({"gather", "index", "index_select"})
"""The same, where a stored tensor of integers says which one."""

AVERAGES = {
    "adaptive_avg_pool1d": 1,
    "adaptive_avg_pool2d": 2,
    "adaptive_avg_pool3d": 3,
    "avg_pool1d": 1,
    "avg_pool2d": 2,
    "avg_pool3d": 3,
    "upsample_linear1d": 1,
    "upsample_bilinear2d": 2,
    "upsample_trilinear3d": 3,
    "upsample_bicubic2d": 2,
    "_upsample_bilinear2d_aa": 2,
    "_upsample_bicubic2d_aa": 2,
    "mean": 0,
}
"""Operators that take weighted averages, and over how many trailing axes."""

MAXIMA = {
    "adaptive_max_pool1d": 1,
    "adaptive_max_pool2d": 2,
    "adaptive_max_pool3d": 3,
    "amax": 0,
    "max_pool1d": 1,
    "max_pool2d": 2,
    "max_pool3d": 3,
}
"""Operators that take the maximum, and over how many trailing axes."""

CONCATENATIONS = frozenset({"cat", "concat", "concatenate"})

_IDENTITIES = frozenset(
    """alpha_dropout dropout dropout_ feature_alpha_dropout feature_dropout lift_fresh""".split()
)
"""Operators that return their input unchanged in evaluation mode."""


@dataclass(frozen=True, eq=False)
class Channels:
    """``index[i]`` is the channel (or FREE, or KEEP) of position ``i`` on ``axis``."""

    axis: int
    index: Tensor

    @classmethod
    def of_axis(cls, value: Value, axis: int) -> Channels:
        """Every position on ``axis`` is a channel of its own."""
        return cls(axis, torch.arange(value.shape[axis]))

    def labels(self, shape: tuple[int, ...]) -> Tensor:
        """The channel of every element of a tensor of ``shape``; int64."""
        view = [1] * len(shape)
        view[self.axis] = -1
        return self.index.view(view).expand(shape)


class NotSeparable(Exception):
    """The operator mixes channels, or pads with a constant that the shift would change."""


def move_up(op: Op, source: Value, result: Value, channels: Channels, *, shifts: bool) -> Channels:
    """The channels of ``source``, given those of ``result``, through a data-moving operator.

    Args:
        shifts: whether a constant is to be added; padding with zeros is then not allowed.

    Raises:
        NotSeparable: elements of one channel do not lie on one axis of ``source``.
    """
    labels = torch.full((_numel(source) + 1,), FREE)
    origins = origins_of(op, source)
    wanted = [
        channels.labels(result.shape) if output is result else torch.full_like(origin, KEEP)
        for output, origin in origins
    ]
    for (output, origin), wish in zip(origins, wanted, strict=True):
        _refuse_padding(origin, shifts and output is result)
        labels[origin.flatten()] = wish.flatten()
    for (_, origin), wish in zip(origins, wanted, strict=True):
        if not torch.equal(labels[origin][origin > 0], wish[origin > 0]):
            raise NotSeparable(f"{op.name} hands one element to several channels")
    return _compact(labels[1:].view(source.shape), op)


def move_down(
    op: Op, source: Value, result: Value, channels: Channels, *, shifts: bool
) -> Channels:
    """The channels of ``result``, given those of ``source``, through a data-moving operator."""
    labels = torch.cat([torch.tensor([FREE]), channels.labels(source.shape).flatten()])
    origin = dict(origins_of(op, source))[result]
    _refuse_padding(origin, shifts)
    return _compact(labels[origin], op)


def reduced_axes(op: Op, source: Value) -> frozenset[int]:
    """The axes that an averaging or maximum operator works over.

    Raises:
        NotSeparable: what it does is not a plain average, so that a constant would not survive.
    """
    rank = len(source.shape)
    trailing = {**AVERAGES, **MAXIMA}[op.name]
    if trailing:
        return frozenset(range(rank - trailing, rank))
    axes = op.arguments.get("dim")
    if axes is None or axes == []:
        raise NotSeparable(f"{op.name} is taken over every axis")
    return frozenset(axis % rank for axis in ([axes] if isinstance(axes, int) else axes))


def moves(op: Op) -> bool:
    """Whether every output element is a copy of one input element, or a padding constant."""
    return op.name in MOVES or op.name in _MOVES_BY_INDEX


def is_identity(op: Op) -> bool:
    """Whether the operator returned its input unchanged: a dropout that was not training."""
    return op.name in _IDENTITIES and not op.arguments.get("train", False)


def averages_to_one(op: Op) -> bool:
    """Whether the weights of an averaging operator add up to one for every output element."""
    if not op.name.startswith("avg_pool"):
        return True
    padded = any(_as_list(op["padding"]))
    if op.arguments.get("divisor_override") is not None:
        return False
    if op["ceil_mode"] and padded:
        return False
    return not (padded and op["count_include_pad"])


def axis_without(axis: int, removed: frozenset[int], op: Op) -> int:
    """Where ``axis`` lies after a reduction over the ``removed`` axes."""
    if not removed or op.arguments.get("keepdim", True):
        return axis
    return axis - sum(other < axis for other in removed)


def axis_before(axis: int, removed: frozenset[int], op: Op, rank: int) -> int:
    """The inverse of :func:`axis_without` for a source of ``rank`` axes."""
    if op.arguments.get("keepdim", True):
        return axis
    return [other for other in range(rank) if other not in removed][axis]


def origins_of(op: Op, source: Value) -> list[tuple[Value, Tensor]]:
    """For each output, the number (from 1) of the source element each element is a copy of."""
    if op.function is None:  # an alias found by its storage
        raise NotSeparable("it is read through another view of its storage")
    if op.arguments.get("value"):
        raise NotSeparable("it is padded with a constant other than zero")
    # float64 counts exactly to 2**53, and every data-moving operator supports it.
    numbered = torch.arange(1, _numel(source) + 1, dtype=torch.float64).view(source.shape)
    known = {value: value.number.cpu() for value in op.inputs if value.number is not None}
    if any(value is not source and value not in known for value in op.inputs):
        raise NotSeparable("its indices are not stored in the model")
    results = op.rerun({**known, source: numbered})
    outputs = results if isinstance(results, (list, tuple)) else [results]
    return [(value, result.long()) for value, result in zip(op.outputs, outputs, strict=True)]


def _refuse_padding(origin: Tensor, shifts: bool) -> None:
    if shifts and bool((origin <= 0).any()):
        raise NotSeparable("zero padding lies between, and the shift would change the padding")


def _compact(labels: Tensor, op: Op) -> Channels:
    candidates = sorted(range(labels.dim()), key=lambda axis: (axis != 1, axis))
    for axis in candidates:
        across = labels.movedim(axis, 0).flatten(1)
        top = across.max(dim=1).values
        if bool(((across == top[:, None]) | (across == FREE)).all()):
            return Channels(axis, top)
        # KEEP is below FREE, so a row of nothing but KEEP and FREE has FREE as its maximum.
        bottom = across.min(dim=1).values
        index = torch.where(top == FREE, bottom, top)
        if bool(((across == index[:, None]) | (across == FREE)).all()):
            return Channels(axis, index)
    raise NotSeparable(f"{op.name} mixes channels on every axis")


def _numel(value: Value) -> int:
    return int(torch.Size(value.shape).numel())


def _as_list(item: int | list[int]) -> list[int]:
    return [item] if isinstance(item, int) else list(item)
