"""The columns that a layer multiplies its weight with: patches of an image, or rows of a matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from deployfold.export.session import Array

from .formats import Format
from .graph import Layer

COLUMNS = 16_384
"""Columns sampled of all inputs together."""


@dataclass(frozen=True, eq=False)
class Columns:
    """``(groups, width, n)`` sampled columns of a layer's input."""

    values: Tensor

    def quantised(self, scale: float, form: Format) -> Tensor:
        """The columns as the format represents them."""
        return form.fake_quantise(self.values, scale)


def columns_of(
    layer: Layer, values: Sequence[Array], weight: Array, attributes: Mapping[str, object]
) -> Columns | None:
    """The columns that a layer multiplies its weight with; ``None`` for a layer without that form.

    The same positions are drawn whenever the shapes are the same.
    """
    share = max(1, COLUMNS // len(values))
    generator = torch.Generator().manual_seed(0)
    parts = []
    for value in values:
        found = _unfold(layer, torch.from_numpy(np.ascontiguousarray(value)), weight, attributes)
        if found is None:
            return None
        count = found.shape[2]
        if count > share:
            found = found[:, :, torch.randperm(count, generator=generator)[:share]]
        parts.append(found.float())
    return Columns(torch.cat(parts, 2))


def _unfold(
    layer: Layer, value: Tensor, weight: Array, attributes: Mapping[str, object]
) -> Tensor | None:
    if layer.op_type == "MatMul":
        return value.reshape(-1, value.shape[-1]).T[None]
    if layer.op_type == "Gemm":
        return value.T[None]
    if layer.op_type != "Conv" or weight.ndim not in (3, 4):
        return None
    spatial = weight.ndim - 2
    if attributes.get("auto_pad", "NOTSET") not in ("NOTSET", b"NOTSET"):
        return None
    pads = _ints(attributes, "pads", [0] * 2 * spatial)
    strides, dilations = (_ints(attributes, key, [1] * spatial) for key in ("strides", "dilations"))
    before, after = pads[:spatial], pads[spatial:]
    if spatial == 1:  # as an image of height 1
        value = value[:, :, None]
        before, after = [0, *before], [0, *after]
        strides, dilations = [1, *strides], [1, *dilations]
    kernel = (1, *weight.shape[2:]) if spatial == 1 else weight.shape[2:]
    value = F.pad(value, (before[1], after[1], before[0], after[0]))
    columns = F.unfold(value, kernel, dilation=tuple(dilations), stride=tuple(strides))
    columns = columns.transpose(0, 1).flatten(1)
    return columns.reshape(layer.groups, -1, columns.shape[1])


def _ints(attributes: Mapping[str, object], key: str, default: list[int]) -> list[int]:
    found = attributes.get(key, default)
    return list(found)  # type: ignore[call-overload, no-any-return]


def rows_of(layer: Layer, weight: Array) -> Tensor:
    """The weight as ``(groups, out / groups, width)``, the form that :class:`Columns` fits."""
    matrix = torch.from_numpy(np.array(weight, np.float64))
    if layer.op_type == "MatMul" or (layer.op_type == "Gemm" and layer.axis == 1):
        matrix = matrix.T
    return matrix.reshape(layer.groups, -1, matrix[0].numel())
