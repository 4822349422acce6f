"""The layers of one row of a report: their precision and error, and their time."""

from __future__ import annotations

from typing import Any

from .fields import Count, Frozen, Number


class QuantizedLayer(Frozen):
    """One layer of a model that is quantised.

    Attributes:
        precision: the row's, or ``fp16`` or ``fp32``.
        macs: multiply-accumulates of one inference.
        sqnr_db: of its output against the fp32 layer's; ``None`` if it was not measured.
        input_range: the greatest magnitude its input is quantised to.
        estimator: how that range was found, such as ``entropy`` or ``percentile 99.99``; where
            blocks of weights share a scale, how many weights.
        reason: why it is not quantised.
    """

    name: str
    op_type: str
    precision: str
    macs: Count | None = None
    sqnr_db: Number | None = None
    input_range: Number | None = None
    estimator: str | None = None
    reason: str | None = None


class QuantizationSummary(Frozen):
    """How much of a model is quantised, and to which precision.

    Attributes:
        quantized_macs_share: the share (0 to 1) of its multiply-accumulates that are quantised.
        calibrated: false where the ranges come from random inputs, which say nothing about
            accuracy on real ones.
        precision: such as ``int8``.
        layers: every layer that could be quantised.
    """

    quantized_macs_share: Number
    calibrated: bool
    precision: str = "int8"
    layers: tuple[QuantizedLayer, ...] = ()


class TimedLayer(Frozen):
    """A layer as the runtime executes it.

    Attributes:
        name, kind: the runtime's own name, and the operator or layer type.
        ms: the median of the calls.
        module: the path of the PyTorch module it was exported from, where that is known.
    """

    name: str
    kind: str
    ms: Number
    module: str | None = None


class LayerTimes(Frozen):
    """The layers of a row in the order of execution, or ``not_measured`` with the reason.

    Attributes:
        calls: inferences that the medians come from. A profiled call is slower than a usual one.
        details: what TensorRT's engine inspector says about the layers.
    """

    layers: tuple[TimedLayer, ...] = ()
    calls: Count = 0
    not_measured: str | None = None
    details: dict[str, Any] | None = None
