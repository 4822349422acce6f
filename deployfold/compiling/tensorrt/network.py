"""The network that a parser made of an ONNX: what is in it, and whether it was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployfold.compiling.request import LayerCounts
from deployfold.config.precision import Precision
from deployfold.errors import CompileError


@dataclass(frozen=True)
class Tensor:
    """One input or output of an engine.

    Attributes:
        mode: ``input`` or ``output``.
        shape: -1 where an axis is dynamic.
        dtype: as numpy names it: ``float32``; ``bfloat16``, ``float8_e4m3fn`` and ``int4`` as
            ml_dtypes does.
    """

    name: str
    mode: str
    shape: tuple[int, ...]
    dtype: str


DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "FP8": "float8_e4m3fn",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
    "INT4": "int4",
    "FP4": "float4_e2m1fn",
}
"""The members of ``trt.DataType``, as numpy and ml_dtypes name them."""


_PRECISIONS = {one.record.tensorrt_type: one.value for one in Precision}
"""The members of ``trt.DataType`` that layers compute in, as :class:`LayerCounts` calls them."""

_WEIGHTS_ONLY = frozenset(one.value for one in Precision if one.record.weights_only)


def parse_onnx(trt: Any, network: Any, logger: Any, onnx: Path, title: str) -> None:
    """Parse ``onnx`` into ``network``.

    Raises:
        CompileError: the library lacks an operator, or took a file that holds nothing.
    """
    parser = trt.OnnxParser(network, logger)
    # By path, so that external data beside the ONNX is found.
    if not parser.parse_from_file(str(onnx)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        reasons = "; ".join(_parser_error(error) for error in errors[:3]) or "no reason given"
        more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
        raise CompileError(
            f"{title} cannot take {onnx.name}: {reasons}{more}.",
            hint="Export with another opset, or keep the operator out of the model.",
        )
    # A garbage file parses with success into an empty network.
    for count, what in (
        (network.num_inputs, "inputs"),
        (network.num_outputs, "outputs"),
        (network.num_layers, "layers"),
    ):
        if count == 0:
            raise CompileError(f"{onnx.name} has no {what} after {title} parsed it.")


def _parser_error(error: Any) -> str:
    node = f"{error.node_operator()} node {error.node_name()!r}: " if error.node_operator() else ""
    return node + " ".join(error.desc().split()).rstrip(".")


def inputs_of(network: Any) -> dict[str, Any]:
    """The input tensors of a network by name, in their order."""
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    return {tensor.name: tensor for tensor in tensors}


def tensors_of(network: Any) -> tuple[Tensor, ...]:
    """Every input and output of a network, the inputs first."""
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    return tuple(
        Tensor(tensor.name, mode, tuple(tensor.shape), DTYPES.get(tensor.dtype.name, "unknown"))
        for mode, group in (("input", inputs_of(network).values()), ("output", outputs))
        for tensor in group
    )


def layer_types(network: Any) -> frozenset[str]:
    """The names of ``trt.LayerType`` that occur in a network."""
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return frozenset(layer.type.name for layer in layers)


def count_layers(trt: Any, network: Any) -> LayerCounts:
    """Count a network's layers by the type they compute in; see :class:`LayerCounts`."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    kinds = trt.LayerType
    compute = {kinds.CONVOLUTION, kinds.DECONVOLUTION, kinds.MATRIX_MULTIPLY, kinds.EINSUM}
    moves = {kinds.SHUFFLE, kinds.IDENTITY}
    if hasattr(kinds, "SQUEEZE"):  # TensorRT 10.3 has neither yet
        moves |= {kinds.SQUEEZE, kinds.UNSQUEEZE}
    maker = {
        layer.get_output(index).name: layer
        for layer in layers
        for index in range(layer.num_outputs)
    }

    def stored(tensor: Any) -> str:
        """The type that a tensor was dequantised from, or else its own; no tensor has none."""
        if tensor is None:
            return ""
        source = maker.get(tensor.name)
        while source is not None and source.type in moves:
            source = maker.get(source.get_input(0).name)
        if source is not None and source.type == kinds.DEQUANTIZE:
            tensor = source.get_input(0)
        return _PRECISIONS.get(tensor.dtype.name, "")

    found = dict.fromkeys(_PRECISIONS.values(), 0)
    for layer in layers:
        if layer.type not in compute:
            continue
        weight = stored(layer.get_input(1))
        name = weight if weight in _WEIGHTS_ONLY else stored(layer.get_input(0))
        if name:
            found[name] += 1
    return LayerCounts(
        total=len(layers),
        quantize=sum(layer.type == kinds.QUANTIZE for layer in layers),
        dequantize=sum(layer.type == kinds.DEQUANTIZE for layer in layers),
        **found,
    )


def check_precision(counts: LayerCounts, precision: Precision, onnx: Path) -> None:
    """Make sure that the parsed network computes in the precision that was asked for.

    A network without compute layers passes: there is nothing to lower.

    Raises:
        CompileError: no compute layer has that precision.
    """
    if not counts.compute:
        return
    have = getattr(counts, precision.value)
    record = precision.record
    if record.family == "qdq" and not record.weights_only and not counts.quantize:
        have = 0
    if have == 0:
        others = (f"{name}: {getattr(counts, name)}" for name in _PRECISIONS.values())
        raise CompileError(
            f"{precision.value} was asked for, and none of the {counts.compute} compute layers "
            f"that TensorRT parsed from {onnx.name} is {precision.value} ({', '.join(others)}).",
            hint="Strongly typed networks take their precision from the ONNX: lower it first.",
        )
