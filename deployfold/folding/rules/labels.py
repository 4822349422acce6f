"""The cell that every element of every tensor belongs to; see :mod:`.cells`."""

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
"""The cell of everything that has to stay as it is."""
PADDING = -1
"""In the place of a cell: zeros that an operator has added."""


@dataclass(frozen=True, eq=False)
class Demand:
    """Cells that have to keep their scale, or offset, and why.

    ``owner`` is an affine layer that demands it only as long as it is there.
    """

    cells: Indices
    reason: str
    owner: AffineLayer | None = None


@dataclass(frozen=True, eq=False)
class Absorber:
    """A layer that takes up changes of the tensor that it reads, or (``after``) writes.

    ``cells`` are those of its channels, int64 of shape ``(channels,)``.
    """

    op: Op
    cells: Indices
    after: bool


class Labels:
    """Cells as tensors of numbers, of size one along every axis that they do not vary along.

    Attributes:
        count: the number of cells.
        same: pairs of cells with one scale and one offset.
        fixed_offset: cells that have to keep offset 0.
    """

    def __init__(self) -> None:
        self.labels: dict[Value, Tensor] = {}
        self.blocks: dict[object, Indices] = {}
        self.count = 1
        self.same: list[tuple[Indices, Indices]] = []
        first = Demand(np.array([FIXED]), "what makes it cannot be changed")
        self.fixed_offset = [first]

    def of(self, value: Value) -> Tensor:
        """The cell of every element of ``value``; NaN for padding."""
        if value not in self.labels:
            return torch.full([1] * len(value.shape), float(FIXED), dtype=torch.float64)
        return self.labels[value]

    def label(self, value: Value, axis: int, cells: Indices) -> None:
        """Let each position on ``axis`` of ``value`` be one of ``cells``."""
        shape = [1] * len(value.shape)
        shape[axis] = -1
        self.labels[value] = torch.from_numpy(cells).double().reshape(shape)

    def block(self, owner: object, size: int) -> Indices:
        """The cells that a layer writes: the same at every place where it runs."""
        if owner not in self.blocks:
            self.blocks[owner] = np.arange(self.count, self.count + size)
            self.count += size
        return self.blocks[owner]

    def share(self, owner: object, cells: Indices) -> None:
        """Let a layer read the same cells at every place where it runs."""
        first = self.blocks.setdefault(owner, cells)
        if first is not cells:
            self.same.append((first, cells))

    def along(self, value: Value, axis: int, reader: str) -> Indices:
        """One cell for each position on ``axis``, since all elements there change alike."""
        labels = self.of(value)
        for other in range(labels.dim()):
            if other != axis:
                labels = self.collapsed(labels, other)
        cells = labels.flatten().nan_to_num(nan=FIXED).long().numpy()
        return np.ascontiguousarray(np.broadcast_to(cells, (value.shape[axis],)))

    def united(self, labels: Tensor, route: Route) -> Tensor:
        """Make the elements that a route averages one cell."""
        for axis in route.averaged:
            if -axis <= labels.dim():
                labels = self.collapsed(labels, labels.dim() + axis)
        return labels

    def carried(self, labels: Tensor, route: Route) -> Tensor:
        """The cells of the output of a route, NaN for padding that lies between channels."""
        if labels.numel() == 1 and isinstance(route, Moved) and float(labels) == FIXED:
            return labels.reshape([1] * len(route.result.shape))  # padding stays as well
        moved = route.down(labels)
        if route.pads:  # padding lies between elements of one channel, except along channels
            for axis in range(moved.dim()):
                known = moved.nan_to_num(nan=-1).amax(axis, keepdim=True)
                if bool(((moved == known) | moved.isnan()).all()):
                    moved = self.collapsed(moved, axis)
        return moved

    def collapsed(self, labels: Tensor, axis: int) -> Tensor:
        """Make the elements along ``axis`` one cell."""
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
        """The cells of a tensor, each once."""
        found: Indices = torch.unique(labels[~labels.isnan()]).long().numpy()
        return found
