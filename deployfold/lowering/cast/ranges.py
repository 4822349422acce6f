"""Measures the ranges of the fp32 model's tensors, and checks whether float16 can hold them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from deployfold.lowering.activations import iterate_activations
from deployfold.util.arrays import Array
from deployfold.util.numerics import sqnr_db

from .formats import FP16

MIN_ROUNDING_DB = 30.0
"""Least SQNR (dB) that rounding one tensor to float16 may leave.

Rounding a tensor of ordinary values leaves about 73 dB (11 bits). 30 dB is an error of 3 %: the
tensor then lies among the subnormals, under 2**-14, and their spacing is always 2**-24.
"""

# A tensor with a larger value cannot fall under MIN_ROUNDING_DB, for up to 1e7 elements: its energy
# is at least 1.6e-5, and the subnormals' rounding error is at most (2**-25)**2 an element.
_SAFELY_LARGE = 4e-3


@dataclass(frozen=True)
class TensorRange:
    """The observed range of one tensor of the fp32 model, over all inputs.

    Attributes:
        largest: the largest finite magnitude.
        rounding_db: the least SQNR (dB) over the inputs after rounding the tensor to float16.
    """

    largest: float
    finite: bool
    rounding_db: float

    @property
    def problem(self) -> str | None:
        """Why float16 cannot hold the tensor, as the end of a sentence; ``None`` if it can."""
        if self.largest > FP16.largest:
            return f"reaches {self.largest:.3g}, beyond float16's 65504"
        if self.rounding_db < MIN_ROUNDING_DB:
            return (
                f"is at most {self.largest:.3g}, too small for float16 "
                f"(rounding leaves {self.rounding_db:.0f} dB)"
            )
        return None


def tensor_range(array: Array) -> TensorRange:
    """The range of one float array; see :class:`TensorRange` for the fields."""
    # The extremes show NaN and infinity, and need no array of their own.
    finite = not array.size or bool(np.isfinite([array.min(), array.max()]).all())
    values = array if finite else array[np.isfinite(array)]
    largest = float(max(-values.min(), values.max())) if values.size else 0.0
    decibels = np.inf
    if 0.0 < largest < _SAFELY_LARGE:
        values = values.astype(np.float32)
        decibels = sqnr_db(values, values.astype(np.float16))
    return TensorRange(largest, finite, float(decibels))


@dataclass(frozen=True, eq=False)
class Observed:
    """What a run of the fp32 model shows of its tensors.

    Attributes:
        ranges: of all float32 inputs and node outputs of the main graph, by name.
        dtypes: of all node outputs, by name.
        kept: the tensors that were to be kept, by name, one array a feed; without sequences, and
            without tensors that no node computes.
    """

    ranges: dict[str, TensorRange]
    dtypes: dict[str, np.dtype[np.generic]]
    kept: dict[str, list[Array]]


def activation_ranges(
    source: Path, feeds: Sequence[Mapping[str, Array]], *, keep: Collection[str] = ()
) -> Observed:
    """Run the fp32 model on ``feeds``, and measure the range of every float32 tensor.

    Args:
        keep: the names of the tensors to return as well.

    Raises:
        ExportError: ONNX Runtime cannot run the model.
    """
    ranges: dict[str, TensorRange] = {}
    dtypes: dict[str, np.dtype[np.generic]] = {}
    kept: dict[str, list[Array]] = {}
    for feed in feeds:
        for name, array in feed.items():
            _merge(ranges, name, array)
    for activation in iterate_activations(source, feeds):
        dtypes[activation.name] = activation.array.dtype
        _merge(ranges, activation.name, activation.array)
        if activation.name in keep:
            kept.setdefault(activation.name, []).append(activation.array)
    return Observed(ranges, dtypes, kept)


def weight_ranges(model: ir.Model) -> dict[str, TensorRange]:
    """The ranges of the main graph's float32 initialisers, by name."""
    return {
        name: tensor_range(value.const_value.numpy())
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT
    }


def _merge(ranges: dict[str, TensorRange], name: str, array: Array) -> None:
    if array.dtype == np.float32:
        new = tensor_range(array)
        ranges[name] = _union(ranges.get(name, new), new)


def merged(
    first: Mapping[str, TensorRange], second: Mapping[str, TensorRange]
) -> dict[str, TensorRange]:
    """The ranges over the inputs of both measurements, by tensor name."""
    common = {name: _union(first[name], found) for name, found in second.items() if name in first}
    return {**first, **second, **common}


def _union(first: TensorRange, second: TensorRange) -> TensorRange:
    return TensorRange(
        largest=max(first.largest, second.largest),
        finite=first.finite and second.finite,
        rounding_db=min(first.rounding_db, second.rounding_db),
    )
