"""The number formats of Q/DQ nodes, one record each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from deployfold.config.precision import Precision
from deployfold.util.arrays import Array


@dataclass(frozen=True)
class Format:
    """A symmetric number format for quantised tensors; the zero point is 0.

    Attributes:
        largest: the largest magnitude with a scale of 1.
        dtype: the type of quantised tensors in the ONNX.
        opset: the first opset with Q/DQ nodes for the format and with float16 scales.
        weight_only: whether only weights are quantised, and the inputs of layers are not.
        blocks: the numbers of inputs that may share a scale, in order of preference. A format
            without blocks has one scale for each output channel.
    """

    precision: Precision
    largest: float
    dtype: ir.DataType
    opset: int
    weight_only: bool = False
    blocks: tuple[int, ...] = ()

    def block_of(self, width: int) -> int | None:
        """The block size for a weight of ``width`` inputs.

        The result is 0 for a format without blocks, and ``None`` if no block size divides the
        width. TensorRT-RTX accepts a smaller last block, but its documents do not promise that.
        """
        if not self.blocks:
            return 0
        return next((block for block in self.blocks if width % block == 0), None)

    def round(self, values: Tensor) -> Tensor:
        """Round ``values`` to the nearest codes, ties to even, in a symmetric range."""
        return self._nearest(values.clone(), -self.largest)

    def fake_quantise(self, values: Tensor, scale: float | Tensor) -> Tensor:
        """Round ``values`` in steps of ``scale``, as QuantizeLinear and DequantizeLinear do."""
        # QuantizeLinear uses all int8 codes, including -128; a weight does not use -128.
        lowest = -self.largest - (self.precision is Precision.INT8)
        return self._nearest(values / scale, lowest).mul_(scale)

    def stored(self, codes: Array) -> Array:
        """Convert representable codes to the type of quantised tensors in the ONNX."""
        return np.asarray(codes).astype(self.dtype.numpy())

    def _nearest(self, values: Tensor, lowest: float) -> Tensor:
        """Round to the nearest codes; may overwrite ``values``.

        Fresh memory would cost more time than the rounding.
        """
        clamped = values.clamp_(lowest, self.largest)
        if self.precision is Precision.FP8:
            return clamped.to(torch.float8_e4m3fn).to(values.dtype)
        return clamped.round_()


INT8 = Format(Precision.INT8, 127.0, ir.DataType.INT8, 19)

FP8 = Format(Precision.FP8, 448.0, ir.DataType.FLOAT8E4M3FN, 19)
"""1 sign bit, 4 of exponent, 3 of mantissa, no infinity: https://arxiv.org/abs/2209.05433."""

INT4 = Format(Precision.INT4, 7.0, ir.DataType.INT4, 21, weight_only=True, blocks=(128, 64, 32))

INT8_WEIGHTS = Format(Precision.INT8_WEIGHTS, 127.0, ir.DataType.INT8, 19, weight_only=True)

FORMATS = {form.precision: form for form in (INT8, INT8_WEIGHTS, FP8, INT4)}
