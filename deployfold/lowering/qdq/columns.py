"""Samples the columns of a layer's input, which turn the layer into a matrix product.

Columns are the patches that a convolution reads, or the rows of a matrix product's input.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deployfold.util.arrays import Array

from .formats import Format
from .layers import Layer

COLUMNS = 16_384
"""Most columns sampled from all inputs together."""

LEAST_COLUMNS = 4096
"""Columns sampled for a narrow layer; a wider layer gets 16 for every unit of its width."""

COMPARED = 1024
"""Most columns for comparing candidates, which needs fewer than a fit."""

_VALUES, _COMPARED_VALUES = 2**24, 2**22
"""Most values in the columns of all groups: a depthwise layer has its own columns a channel."""

_FEWEST = 512


@dataclass(frozen=True, eq=False)
class Columns:
    """Sampled columns of a layer's input.

    Attributes:
        values: the columns, float32, ``(groups, width, n)``.
        folds: the range of columns of each fold of the samples.
    """

    values: Tensor
    folds: tuple[slice, ...]

    def quantised(self, scale: float, form: Format) -> Columns:
        """The columns after rounding to the format with one scale."""
        return Columns(form.fake_quantise(self.values, scale), self.folds)

    def thinned(self) -> Columns:
        """Every n-th column, as many as a comparison of candidates needs."""
        groups, width, count = self.values.shape
        step = -(-count // _compared(groups * width))
        folds = (slice(-(-part.start // step), -(-part.stop // step)) for part in self.folds)
        return Columns(self.values[:, :, ::step].contiguous(), tuple(folds))


def _compared(rows: int) -> int:
    return min(COMPARED, max(_FEWEST, _COMPARED_VALUES // rows))


def columns_of(
    layer: Layer,
    batches: Sequence[Sequence[Array]],
    weight: Array,
    attributes: Mapping[str, object],
    folds: Sequence[int] = (),
    *,
    fitted: bool = True,
) -> list[Columns] | None:
    """Sample the columns of a layer's input, at the same positions in each batch.

    Args:
        layer: the layer.
        batches: the input in several versions, such as fp32 and quantised, one array a sample.
        weight: the weight in the layout of the ONNX initialiser.
        attributes: the attributes of the ONNX node.
        folds: the indices of the samples where a fold begins, without the 0 of the first fold.
        fitted: sample enough columns for a fit, rather than for comparisons alone.

    Returns:
        The columns of each batch; ``None`` for a convolution with automatic padding, which is not
        written as a matrix product here.
    """
    window = None
    if layer.op_type in ("Conv", "ConvTranspose"):
        window = _Window.of(layer, weight, attributes)
        if window is None:
            return None
    rows = weight.size // weight.shape[layer.axis] * layer.groups
    width = rows // layer.groups
    most = _compared(rows)
    if fitted:
        most = max(most, min(COLUMNS, max(LEAST_COLUMNS, 16 * width), _VALUES // rows))
    share = max(1, most // len(batches[0]))
    generator = torch.Generator().manual_seed(0)
    parts: list[list[Tensor]] = [[] for _ in batches]
    for versions in zip(*batches, strict=True):
        shape = versions[0].shape
        count = math.prod(shape[:-1]) if window is None else window.count(shape)
        chosen = torch.arange(count)
        if count > share:
            chosen = torch.randperm(count, generator=generator)[:share]
        places = None if window is None else window.places(shape, chosen)
        for part, value in zip(parts, versions, strict=True):
            tensor = torch.from_numpy(np.ascontiguousarray(value))
            if places is None:
                found = tensor.reshape(count, -1)[chosen].T[None]
            else:
                found = places.gather(tensor, layer.groups)
            part.append(found.float())
    ends = [0, *itertools.accumulate(part.shape[2] for part in parts[0])]
    marks = [*(ends[start] for start in (0, *folds)), ends[-1]]
    slices = tuple(itertools.starmap(slice, itertools.pairwise(marks)))
    return [Columns(torch.cat(part, 2), slices) for part in parts]


@dataclass(frozen=True)
class _Window:
    """The window of a convolution; each tuple has one number for every spatial axis.

    A transposed convolution reads its input as if zeros stood between the elements, so each output
    has a window as well: of tap ``t``, the element ``(output + before - t * dilation) / stride`` if
    this is a whole number.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    more: tuple[int, ...]
    transposed: bool

    @classmethod
    def of(cls, layer: Layer, weight: Array, attributes: Mapping[str, object]) -> _Window | None:
        """The window of a node; ``None`` for automatic padding (``auto_pad``, ``output_shape``)."""
        automatic = attributes.get("auto_pad", "NOTSET") not in ("NOTSET", b"NOTSET")
        if automatic or "output_shape" in attributes:
            return None
        axes = weight.ndim - 2
        pads = _ints(attributes, "pads", 2 * axes, 0)
        return cls(
            kernel=weight.shape[2:],
            strides=_ints(attributes, "strides", axes, 1),
            dilations=_ints(attributes, "dilations", axes, 1),
            before=pads[:axes],
            after=pads[axes:],
            more=_ints(attributes, "output_padding", axes, 0),
            transposed=layer.op_type == "ConvTranspose",
        )

    def count(self, shape: Sequence[int]) -> int:
        """The number of columns of an input; ``shape`` includes the batch."""
        return shape[0] * math.prod(self._outputs(shape[2:]))

    def places(self, shape: Sequence[int], chosen: Tensor) -> _Places:
        """Where the ``chosen`` columns of an input lie; ``shape`` includes the batch.

        Columns count along the batch and then the spatial axes.
        """
        sizes = shape[2:]
        if set(self.kernel) | set(self.strides) == {1} and not any(self.before + self.after):
            return _Places(chosen[None], None)
        sample, *outputs = torch.unravel_index(chosen, (shape[0], *self._outputs(sizes)))
        at = sample[:, None]
        inside = torch.ones_like(at, dtype=torch.bool)
        for axis, size in enumerate(sizes):
            taps = torch.arange(self.kernel[axis]) * self.dilations[axis] - self.before[axis]
            stride, output = self.strides[axis], outputs[axis][:, None]
            place = (output - taps) // stride if self.transposed else output * stride + taps
            within = (place >= 0) & (place < size)
            if self.transposed:
                within &= (output - taps) % stride == 0
            at = (at[:, :, None] * size + place.clamp(0, size - 1)[:, None]).flatten(1)
            inside = (inside[:, :, None] & within[:, None]).flatten(1)
        return _Places(at.T.contiguous(), None if inside.all() else ~inside.T)

    def _outputs(self, sizes: Sequence[int]) -> tuple[int, ...]:
        fields = self.kernel, self.strides, self.dilations, self.before, self.after, self.more
        return tuple(
            (size - 1) * stride + dilation * (kernel - 1) + 1 - before - after + more
            if self.transposed
            else (size + before + after - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, dilation, before, after, more in zip(
                sizes, *fields, strict=True
            )
        )


@dataclass(frozen=True, eq=False)
class _Places:
    """The elements of one channel that make up some columns.

    Gathering only these saves memory: all columns of a 3x3 convolution are nine times its input.

    Attributes:
        at: the flat positions along the batch and the spatial axes, ``(taps, n)``.
        outside: which of these lie in the padding; ``None`` without padding.
    """

    at: Tensor
    outside: Tensor | None

    def gather(self, value: Tensor, groups: int) -> Tensor:
        """The columns of ``value``, as ``(groups, width, n)``."""
        channels = value.transpose(0, 1).flatten(1)
        found = channels.index_select(1, self.at.flatten()).reshape(len(channels), *self.at.shape)
        if self.outside is not None:
            found.masked_fill_(self.outside, 0.0)
        return found.reshape(groups, -1, self.at.shape[1])


def _ints(attributes: Mapping[str, object], key: str, count: int, default: int) -> tuple[int, ...]:
    found = attributes.get(key)
    return (default,) * count if found is None else tuple(found)  # type: ignore[arg-type]


def rows_of(layer: Layer, weight: Array) -> Tensor:
    """The weight as ``(groups, out / groups, width)`` in float32, ready to multiply columns."""
    matrix = torch.from_numpy(np.moveaxis(np.array(weight, np.float32), layer.axis, 0))
    return matrix.reshape(layer.groups, -1, matrix[0].numel())
