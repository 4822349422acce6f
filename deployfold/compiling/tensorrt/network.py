"""Inspects the network that TensorRT parses from an ONNX: tensors, layers and their precision."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployfold.compiling.records import EngineTensor, LayerCounts
from deployfold.config.precision import Precision
from deployfold.errors import CompileError

DTYPES = {
    **{one.record.tensorrt_type: one.record.dtype for one in Precision},
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}
"""The names of types in numpy and ml_dtypes, by member of ``trt.DataType``."""

BY_OPERAND, BY_WEIGHT = (
    {one.record.tensorrt_type: one for one in Precision if one.record.weights_only is weights_only}
    for weights_only in (False, True)
)
"""The precisions of compute layers, by member of ``trt.DataType``."""


def parse_onnx(trt: Any, network: Any, logger: Any, onnx: Path, title: str) -> None:
    """Parse ``onnx`` into ``network``.

    Raises:
        CompileError: the library lacks an operator, or the parsed network is empty.
    """
    parser = trt.OnnxParser(network, logger)
    # Parse by path, because the parser looks for external data in the file's folder.
    if not parser.parse_from_file(str(onnx)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        import onnx_ir as ir  # only for a message

        nodes = list(ir.load(onnx).graph)
        found = list(dict.fromkeys(_parser_error(error, nodes) for error in errors))
        reasons = "; ".join(found[:3]) or "no reason given"
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        raise CompileError(
            f"{title} cannot parse {onnx.name}: {reasons}{more}.",
            hint="Replace the operator in the module, or take it out of the model and run it "
            "beside the engine. ONNX Runtime runs the ONNX as it is.",
        )
    # TensorRT parses a garbage file without an error, into an empty network.
    for count, what in (
        (network.num_inputs, "inputs"),
        (network.num_outputs, "outputs"),
        (network.num_layers, "layers"),
    ):
        if count == 0:
            raise CompileError(
                f"{onnx.name} has no {what} after {title} parsed it.", hint="Export it again."
            )


def _parser_error(error: Any, nodes: Sequence[Any]) -> str:
    """The operator, its node, the module of the user's code, and the parser's words.

    Errors in attributes name only the parser's function, such as ``importScatterElements``.
    """
    from deployfold.exporting.onnx_graph import module_of  # imports torch

    operator, name = error.node_operator(), error.node_name()
    if not operator:
        operator = next(iter(re.findall(r"^import(\w+)$", error.func())), "")
        alike = [node.name for node in nodes if node.op_type == operator]
        name = alike[0] if len(alike) == 1 else ""
    module = next((module_of(node) for node in nodes if name and node.name == name), None)
    place = f"{operator} node {name!r}" if name else operator
    inside = f" of the module {module!r}" if module else ""
    words = " ".join(error.desc().split()).rstrip(".")
    if words == "false" or "Plugin not found" in words:  # the assertion that failed
        words = "the parser does not know this operator"
    return f"{place}{inside}: {words}" if place else words


def inputs_of(network: Any) -> dict[str, Any]:
    """The input tensors of a network, by name and in order."""
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    return {tensor.name: tensor for tensor in tensors}


def tensors_of(network: Any) -> tuple[EngineTensor, ...]:
    """The inputs and outputs of a network, the inputs first."""
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    return tuple(
        EngineTensor(
            tensor.name, DTYPES.get(tensor.dtype.name, "unknown"), tuple(tensor.shape), mode
        )
        for mode, group in (("input", inputs_of(network).values()), ("output", outputs))
        for tensor in group
    )


@dataclass(frozen=True)
class ComputeLayer:
    """A convolution, deconvolution, matrix product or einsum of a parsed network.

    Attributes:
        node: the ONNX node it was parsed from, or its own name.
        kind: the name of its ``trt.LayerType``.
        precision: its precision; ``None`` for a type without one.
        weight: the type of its second operand, a member of ``trt.DataType``; empty without one.
        dequantised_by: the ONNX node that dequantises the second operand; ``None`` without one.
    """

    node: str
    kind: str
    precision: Precision | None
    weight: str = ""
    dequantised_by: str | None = None


@dataclass(frozen=True)
class Network:
    """The layers of a parsed network, before TensorRT fuses any.

    Attributes:
        types: the number of layers of each type, by name of ``trt.LayerType``.
        kinds: for each ONNX node, the types of its layers.
        compute: the compute layers, in the order of the network.
    """

    types: Mapping[str, int]
    kinds: Mapping[str, frozenset[str]]
    compute: tuple[ComputeLayer, ...]

    @property
    def counts(self) -> LayerCounts:
        """The number of layers by kind and precision."""
        found = Counter(one.precision for one in self.compute)
        return LayerCounts(
            total=sum(self.types.values()),
            quantize=self.types.get("QUANTIZE", 0),
            dequantize=self.types.get("DEQUANTIZE", 0),
            by_precision={one: found[one] for one in Precision},
        )


_ONNX_NODE = re.compile(r"\[ONNX Layer: (.+?)\](?=\W*\[ONNX Layer: |\W*$)")
ROLES = {
    **dict.fromkeys(("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM"), "computes"),
    **dict.fromkeys(("SHUFFLE", "IDENTITY", "SQUEEZE", "UNSQUEEZE"), "moves"),
    **dict.fromkeys(("QUANTIZE", "DEQUANTIZE", "CAST", "CONSTANT"), "converts"),
}
"""The roles of layers, by member of ``trt.LayerType``; all others compute something else."""


def onnx_nodes(metadata: str) -> tuple[str, ...]:
    """The names of the ONNX nodes in the metadata of a layer of a network or an engine."""
    return tuple(dict.fromkeys(_ONNX_NODE.findall(metadata)))


def read_network(network: Any) -> Network:
    """Read the layers of a parsed network.

    The type of a compute layer's first operand decides its precision. The type of an operand behind
    a DequantizeLinear node is the type before that node. If a precision of weights alone has the
    type of the second operand, the weight, and the first operand has another type, that precision
    counts.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    maker = {
        layer.get_output(index).name: layer
        for layer in layers
        for index in range(layer.num_outputs)
    }

    def stored(tensor: Any) -> tuple[str, str | None]:
        """The type before a tensor's dequantisation and the node that dequantises it.

        Without a dequantisation, the tensor's own type and ``None``; without a tensor, no type.
        """
        if tensor is None:
            return "", None
        source = maker.get(tensor.name)
        while source is not None and ROLES.get(source.type.name) == "moves":
            source = maker.get(source.get_input(0).name)
        node = None
        if source is not None and source.type.name == "DEQUANTIZE":
            tensor, node = source.get_input(0), _node(source)
        return str(tensor.dtype.name), node

    def compute(layer: Any) -> ComputeLayer:
        operand, _ = stored(layer.get_input(0))
        weight, by = stored(layer.get_input(1))
        by_weight = None if weight == operand else BY_WEIGHT.get(weight)
        precision = by_weight or BY_OPERAND.get(operand)
        return ComputeLayer(_node(layer), layer.type.name, precision, weight, by)

    kinds: dict[str, set[str]] = defaultdict(set)
    for layer in layers:
        for node in onnx_nodes(layer.metadata):
            kinds[node].add(layer.type.name)
    return Network(
        types=Counter(layer.type.name for layer in layers),
        kinds={node: frozenset(types) for node, types in kinds.items()},
        compute=tuple(
            compute(layer) for layer in layers if ROLES.get(layer.type.name) == "computes"
        ),
    )


def _node(layer: Any) -> str:
    return next(iter(onnx_nodes(layer.metadata)), str(layer.name))


def check_precision(counts: LayerCounts, precision: Precision, onnx: Path) -> None:
    """Check that the parsed network computes in the precision of the request.

    A network without compute layers passes.

    Raises:
        CompileError: no compute layer has the precision.
    """
    if not counts.compute:
        return
    rounded = counts.quantize or not precision.record.quantises_activations
    if counts.of(precision) and rounded:
        return
    name = precision.value
    found = ", ".join(f"{one.value}: {counts.of(one)}" for one in Precision)
    raise CompileError(
        f"None of the {counts.compute} compute layers that TensorRT parsed from {onnx.name} is "
        f"{name}, the requested precision ({found}).",
        hint="A strongly typed network takes its precision from the ONNX, which keeps every such "
        "layer in another precision; the notes of the lowered ONNX name the layers and reasons.",
    )
