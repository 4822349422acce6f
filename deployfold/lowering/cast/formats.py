"""The 16-bit types that a graph can be cast to: one record each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_np_to_float16

from deployfold.config.precision import Precision
from deployfold.exporting.session import Array


@dataclass(frozen=True)
class CastFormat:
    """A 16-bit floating-point type, and what is known about graphs in it.

    Attributes:
        precision: its name; also the suffix of tensors that exist in both types.
        largest: the largest finite magnitude.
        limited_range: values of ordinary models can lie beyond it, or vanish in it, so that ranges
            must be looked at.
        opset: the opset that has all operators in it; an older model is raised to that one. 0
            leaves the opset as it is.
        wide: operators that stay in fp32, with the reason.
        round_weight: a float32 array in this type; finite values stay finite.
    """

    precision: Precision
    largest: float
    limited_range: bool
    opset: int
    wide: Mapping[str, str]
    round_weight: Callable[[Array], Array]

    @property
    def dtype(self) -> ir.DataType:
        """The tensor type."""
        return ir.DataType[self.precision.record.onnx_type]

    @property
    def name(self) -> str:
        """As in file names: ``fp16``."""
        return self.precision.value


def _to_bfloat16(array: Array) -> Array:
    # float32's largest, as attention masks hold it, would become infinite.
    finite = np.isfinite(array)
    clipped = np.where(finite, np.clip(array, -_BF16_LARGEST, _BF16_LARGEST), array)
    return np.asarray(clipped.astype(ir.DataType.BFLOAT16.numpy()))


def _to_float16(array: Array) -> Array:
    # Clips finite values to 65504, and raises those under the least subnormal to that.
    return np.asarray(convert_np_to_float16(array))


_BF16_LARGEST = (2 - 2**-7) * 2.0**127

FP16 = CastFormat(
    Precision.FP16,
    largest=65504.0,
    limited_range=True,
    opset=0,
    wide={op: f"the converter keeps {op} in fp32" for op in DEFAULT_OP_BLOCK_LIST},
    round_weight=_to_float16,
)
"""float16; the operators that stay are those of ONNX Runtime's own converter."""

BF16 = CastFormat(
    Precision.BF16,
    largest=_BF16_LARGEST,
    limited_range=False,
    opset=22,  # the first in which convolutions and pools take bfloat16
    wide={
        op: f"TensorRT-RTX does not build {op} in bf16"
        for op in "ConvTranspose GRU HardSwish LpPool MeanVarianceNormalization Mish".split()
    },
    round_weight=_to_bfloat16,
)
"""bfloat16; ONNX has the operators that stay in it, and TensorRT-RTX 1.7.1 does not build them."""

FORMATS = {form.precision: form for form in (FP16, BF16)}
