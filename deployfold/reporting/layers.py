"""The layers of one row of a report: their precision and error, and their time."""

from __future__ import annotations

from collections import Counter
from typing import Any

from deployfold.config.precision import QUANTISED

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


class BuiltLayer(Frozen):
    """A compute layer of an engine's network, and the kernel that the engine runs for it.

    Attributes:
        name, kind: the ONNX node, and TensorRT's type of layer.
        asked, got: the precision in the ONNX, and the one that the kernel reads; ``None`` where the
            library does not list it.
        writes: the precision that the kernel writes.
    """

    name: str
    kind: str
    asked: str | None = None
    got: str | None = None
    writes: str | None = None


class EngineLayers(Frozen):
    """The kernels of a built engine, as its library lists them.

    Attributes:
        kernels: kernels that one inference launches.
        conversions: those that only change the type or the layout of tensors.
        layers: the compute layers of the network.
    """

    kernels: Count
    conversions: Count
    layers: tuple[BuiltLayer, ...] = ()

    @classmethod
    def of(cls, listing: object | None) -> EngineLayers | None:
        """The report's form of ``deployfold.compiling.records.EngineListing``.

        Devices run that record's module without pydantic, so the two are not one class.
        """
        return None if listing is None else cls.model_validate(listing, from_attributes=True)

    @property
    def quantised(self) -> str | None:
        """The quantised precision that most layers ask for; ``None`` if none does."""
        names = {one.value for one in QUANTISED}
        asked = Counter(layer.asked for layer in self.layers if layer.asked in names)
        return next((name for name, _ in asked.most_common(1)), None)

    def sentence(self, precision: str) -> str:
        """A sentence on the layers that ask for ``precision``: the precisions that they got."""
        asked = [layer for layer in self.layers if layer.asked == precision]
        got = sum(layer.got == precision for layer in asked)
        wide = sum(layer.got == precision and layer.writes == "fp32" for layer in asked)
        return (
            f"the engine computes {got} of {len(asked)} {precision} layers in {precision}; "
            f"of these with fp32 outputs: {wide}; kernels: {self.kernels}, "
            f"for conversions alone: {self.conversions}"
        )


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
