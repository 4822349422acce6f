"""Assigning every element of every tensor to a cell, which :mod:`.cells` defines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deployfold.folding.graph.affine_layer import AffineLayer
from deployfold.folding.graph.graph import Op, Value
from deployfold.folding.operators.routes import Moved, Route

from .scales import Indices

FIXED = 0
"""The cell of every element that must stay as it is."""
PADDING = -1
"""The marker, in place of a cell, of zeros that an operator has added."""


@dataclass(frozen=True, eq=False)
class Demand:
    """A constraint: cells that must keep their scale, or their offset, and the reason.

    ``owner`` is the affine layer that makes the demand; folding the layer ends the demand.
    """

    cells: Indices
    reason: str
    owner: AffineLayer | None = None


@dataclass(frozen=True, eq=False)
class Absorber:
    """A layer that can absorb changes of the tensor that it reads, or (``after``) writes.

    ``cells`` holds the cell of each of its channels, int64 of shape ``(channels,)``.
    """

    op: Op
    cells: Indices
    after: bool


class Labels:
    """The cells of each tensor, as numbers in a float64 tensor of the same rank.

    An axis along which the cells do not vary has size one.

    Attributes:
        labels: the cells of each tensor.
        blocks: the cells that a layer writes, or reads, by the key that names the layer.
        count: the number of cells.
        same: pairs of cells that share one scale and one offset.
        fixed_offset: cells that must keep offset 0.
    """

    def __init__(self) -> None:
        self.labels: dict[Value, Tensor] = {}
        self.blocks: dict[object, Indices] = {}
        self.count = 1
        self.same: list[tuple[Indices, Indices]] = []
        first = Demand(np.array([FIXED]), "the operator that computes it cannot be changed")
        self.fixed_offset = [first]

    def of(self, value: Value) -> Tensor:
        """The cell of every element of ``value``; NaN for padding."""
        if value not in self.labels:
            return torch.full([1] * len(value.shape), float(FIXED), dtype=torch.float64)
        return self.labels[value]

    def label(self, value: Value, axis: int, cells: Indices) -> None:
        """Assign each position on ``axis`` of ``value`` one of ``cells``."""
        shape = [1] * len(value.shape)
        shape[axis] = -1
        self.labels[value] = torch.from_numpy(cells).double().reshape(shape)

    def new(self, size: int) -> Indices:
        """Begin so many cells."""
        cells = np.arange(self.count, self.count + size)
        self.count += size
        return cells

    def block(self, owner: object, size: int) -> Indices:
        """The cells that a layer writes, which are the same at every place where the layer runs."""
        if owner not in self.blocks:
            self.blocks[owner] = self.new(size)
        return self.blocks[owner]

    def share(self, owner: object, cells: Indices, pairs: list[tuple[Indices, Indices]]) -> None:
        """Add to ``pairs`` these cells and the first ones that were given for ``owner``."""
        first = self.blocks.setdefault(owner, cells)
        if first is not cells:
            pairs.append((first, cells))

    def along(self, value: Value, axis: int, reader: str) -> Indices:
        """Merge the cells along all other axes; return one cell a position on ``axis``."""
        labels = self.of(value)
        for other in range(labels.dim()):
            if other != axis:
                labels = self.collapsed(labels, other)
        cells = labels.flatten().nan_to_num(nan=FIXED).long().numpy()
        return np.ascontiguousarray(np.broadcast_to(cells, (value.shape[axis],)))

    def united(self, labels: Tensor, route: Route) -> Tensor:
        """Merge the cells of elements that a route averages."""
        for axis in route.averaged:
            if -axis <= labels.dim():
                labels = self.collapsed(labels, labels.dim() + axis)
        return labels

    def carried(self, labels: Tensor, route: Route) -> Tensor:
        """The cells of the output of a route; NaN marks padding between channels."""
        if labels.numel() == 1 and isinstance(route, Moved) and float(labels) == FIXED:
            return labels.reshape([1] * len(route.result.shape))  # padding stays fixed as well
        moved = route.down(labels)
        if route.pads:  # merge the padding into its channel, except along channels
            for axis in range(moved.dim()):
                known = moved.nan_to_num(nan=-1).amax(axis, keepdim=True)
                if bool(((moved == known) | moved.isnan()).all()):
                    moved = self.collapsed(moved, axis)
        return moved

    def collapsed(self, labels: Tensor, axis: int) -> Tensor:
        """Merge the cells along ``axis`` into one."""
        if labels.shape[axis] == 1:
            return labels
        missing = labels.isnan()
        first = labels.nan_to_num(nan=-1).amax(axis, keepdim=True)
        different = (labels != first) & ~missing
        if bool(different.any()):
            pairs = torch.stack([first.expand_as(labels)[different], labels[different]])
            one, other = torch.unique(pairs, dim=1).long().numpy()
            self.same.append((one, other))
        mixed = missing.any(axis, keepdim=True) & (first >= 0)
        if bool(mixed.any()):
            self.fixed_offset.append(Demand(self.ids(first[mixed]), "zero padding lies beside it"))
        return first.masked_fill(first < 0, torch.nan)

    @staticmethod
    def ids(labels: Tensor) -> Indices:
        """The cells of a tensor, sorted and without repetition or padding."""
        found: Indices = torch.unique(labels[~labels.isnan()]).long().numpy()
        return found
