"""Second moments of the columns that a layer reads; a fit of the weight needs nothing else.

``q`` is a column as the quantised layer reads it, and ``e = q - c`` is its difference from the fp32
column ``c``. A weight ``W + D`` then gives the output error

    (W + D) q - W c  =  D q + W e

Therefore ``q qᵀ`` and ``e qᵀ`` determine the squared error of every candidate, up to a constant.
The moments are not taken about the mean: a weight that leaves the mean error to the bias is only as
good as the bias on new samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .columns import Columns

_CHUNK = 4096
"""Number of columns multiplied in float32 at a time; float64 adds the products up."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over columns, each ``(groups, width, width)`` in float32.

    Attributes:
        gram: the sum of ``q qᵀ``.
        cross: the sum of ``e qᵀ``.
    """

    gram: Tensor
    cross: Tensor

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.gram + other.gram, self.cross + other.cross)


def moments_of(exact: Columns, read: Columns, weights: Tensor | None = None) -> list[Moments]:
    """The moments of every fold of the columns; ``weights`` say how much each column counts."""
    return [
        _moments(
            exact.values[:, :, part],
            read.values[:, :, part],
            None if weights is None else weights[part],
        )
        for part in read.folds
    ]


def stacked(several: Sequence[Moments]) -> Moments:
    """Several moments as further groups of one."""
    return Moments(
        torch.cat([one.gram for one in several]), torch.cat([one.cross for one in several])
    )


def _moments(exact: Tensor, read: Tensor, weights: Tensor | None) -> Moments:
    groups, width, count = exact.shape
    gram, cross = (torch.zeros(groups, width, width, dtype=torch.float64) for _ in range(2))
    for start in range(0, count, _CHUNK):
        given = read[:, :, start : start + _CHUNK]
        turned = given.transpose(1, 2)
        if weights is not None:
            turned = turned * weights[start : start + _CHUNK, None]
        gram += given @ turned
        cross += (given - exact[:, :, start : start + _CHUNK]) @ turned
    return Moments(gram.float(), cross.float())
