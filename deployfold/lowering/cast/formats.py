"""The 16-bit floating-point types that a graph can be cast to, one record each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST

from deployfold.config.precision import Precision
from deployfold.util.arrays import Array


@dataclass(frozen=True)
class CastFormat:
    """A 16-bit floating-point type, and the rules for graphs in the type.

    Attributes:
        precision: the precision; its name is also the suffix of tensors that exist in both types.
        limited_range: whether ordinary models have values that overflow or vanish in the type.
            Lowering then checks the ranges of all tensors.
        opset: the first opset with all operators in the type; lowering raises an older model to
            this opset. 0 leaves the opset unchanged.
        wide: operators that stay in fp32, with the reason.
        round_weight: a function that rounds a float32 array to the type; finite values stay finite.
    """

    precision: Precision
    largest: float
    limited_range: bool
    opset: int
    wide: Mapping[str, str]
    round_weight: Callable[[Array], Array]

    @property
    def dtype(self) -> ir.DataType:
        """The ONNX tensor type."""
        return ir.DataType[self.precision.record.onnx_type]

    @property
    def name(self) -> str:
        """The name in files and tensors, such as ``fp16``."""
        return self.precision.value


def _clipped(array: Array, largest: float) -> Array:
    """Clip finite values: float32's largest value, common in attention masks, would overflow."""
    # Most weights; the rest takes ten times as long.
    if not array.size or (-largest <= array.min() and array.max() <= largest):
        return array
    return np.asarray(np.where(np.isfinite(array), np.clip(array, -largest, largest), array))


def _to_bfloat16(array: Array) -> Array:
    return _clipped(array, _BF16_LARGEST).astype(ir.DataType.BFLOAT16.numpy())


def _to_float16(array: Array) -> Array:
    # torch rounds to even like NumPy, in a quarter of the time.
    wide = np.array(_clipped(array, _FP16_LARGEST), np.float32)
    half: Array = torch.from_numpy(wide).half().numpy()
    # A small epsilon must not become 0, because a division by the epsilon may follow.
    numbers, given = half.reshape(-1), np.reshape(array, -1)
    zeros = np.flatnonzero(numbers.view(np.uint16) & 0x7FFF == 0)
    lost = zeros[given[zeros] != 0]
    numbers[lost] = np.copysign(np.float16(_FP16_LEAST), given[lost])
    return half


_FP16_LARGEST = 65504.0
_FP16_LEAST = 2.0**-24  # the least subnormal
_BF16_LARGEST = (2 - 2**-7) * 2.0**127

FP16 = CastFormat(
    Precision.FP16,
    largest=_FP16_LARGEST,
    limited_range=True,
    opset=0,
    wide={op: f"the converter keeps {op} in fp32" for op in DEFAULT_OP_BLOCK_LIST},
    round_weight=_to_float16,
)
"""float16. The operators in fp32 are the default block list of ONNX Runtime's converter."""

BF16 = CastFormat(
    Precision.BF16,
    largest=_BF16_LARGEST,
    limited_range=False,
    opset=22,  # the first opset with bfloat16 convolutions and pools
    wide={
        op: f"TensorRT-RTX does not build {op} in bf16"
        for op in "ConvTranspose GRU HardSwish LpPool MeanVarianceNormalization Mish".split()
    },
    round_weight=_to_bfloat16,
)
"""bfloat16. ONNX allows the operators of ``wide`` in bfloat16, but TensorRT-RTX 1.7.1 does not
build them."""

FORMATS = {form.precision: form for form in (FP16, BF16)}
