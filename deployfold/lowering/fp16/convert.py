"""From an fp32 graph to one with float16 tensors, around ONNX Runtime's converter.

``onnxruntime.transformers.float16.convert_float_to_float16`` changes the types and puts the casts.
What it gets wrong is set right here:

1. a weight shared by a kept and a converted node is converted for both: it is cloned first;
2. an fp32 tensor between two kept nodes goes through float16 all the same, and overflows there:
   the two casts are taken out;
3. the body of an ``If``, ``Loop`` or ``Scan`` is converted without casts at its border: such nodes
   are kept whole, and what they take from outside is cast;
4. a weight whose type is declared twice, as a tensor and as a value, is cast from a float16 that it
   never became: the second declaration is taken out;
5. casts are appended at the end of the graph: it is sorted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common
from onnxruntime.transformers.float16 import (
    DEFAULT_OP_BLOCK_LIST,
    convert_float_to_float16,
    convert_np_to_float16,
)

from deployfold.errors import ExportError, first_line
from deployfold.exporting.quiet import quiet

_STUB_BYTES = 1024


def prepare(model: ir.Model) -> None:
    """Bring a graph into the form that the other functions here expect, in place.

    Functions inlined, constants as initialisers, unique node names, types and shapes inferred.
    """
    with quiet():
        common.InlinePass()(model)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        common.RemoveInitializersFromInputsPass()(model)
        common.NameFixPass()(model)
        common.ShapeInferencePass(check_type=False, strict_mode=False)(model)


def has_subgraph(node: ir.Node) -> bool:
    """Whether it is control flow: a node with a graph among its attributes."""
    return any(
        attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        for attribute in node.attributes.values()
    )


def is_listed(node: ir.Node) -> bool:
    """Whether the converter never converts nodes of this type."""
    return node.op_type in DEFAULT_OP_BLOCK_LIST


def convert(model: ir.Model, kept: Collection[str], *, float_io: bool) -> ir.Model:
    """Convert a prepared model's float32 tensors to float16.

    Args:
        model: its weights in memory; changed so far as weights shared with kept nodes are cloned.
        kept: names of the main graph's nodes that stay in fp32; control flow must be among them.
        float_io: keep float32 graph inputs and outputs, with casts inside.

    Raises:
        ExportError: the converter fails.
    """
    _clone_shared_weights(model, kept)
    try:
        with quiet(), _weights_aside(model) as weights:
            proto = convert_float_to_float16(
                _without_weight_types(ir.to_proto(model)),
                keep_io_types=float_io,
                disable_shape_infer=True,  # done in prepare(), which also works over 2 GB
                node_block_list=list(kept),
            )
        lowered = ir.from_proto(proto)
    except Exception as error:
        raise ExportError(f"The model cannot be lowered to fp16: {first_line(error)}") from error
    assert isinstance(lowered, ir.Model)
    _put_back(lowered, weights)
    _cast_captures(lowered)
    _skip_round_trips(lowered)
    common.RemoveUnusedNodesPass()(lowered)
    lowered.graph.sort()
    return lowered


@contextmanager
def _weights_aside(model: ir.Model) -> Iterator[dict[str, ir.TensorProtocol]]:
    """Let one number stand for each large weight in the block; yields the weights by name.

    The converter works on protobuf, which would hold each of them twice beside the model: as
    float32, since protobuf gives back nothing that was replaced, and as float16.
    """
    weights: dict[str, ir.TensorProtocol] = {}
    for value in model.graph.initializers.values():
        weight = value.const_value
        # What lies in another file would not be found from the converted model.
        outside = isinstance(weight, ir.ExternalTensor)
        if weight is not None and (outside or weight.nbytes > _STUB_BYTES):
            weights[str(value.name)] = weight
            value.const_value = ir.tensor(np.zeros((), weight.dtype.numpy()), name=value.name)
    try:
        yield weights
    finally:
        for name, weight in weights.items():
            model.graph.initializers[name].const_value = weight


def _put_back(lowered: ir.Model, weights: Mapping[str, ir.TensorProtocol]) -> None:
    for value in lowered.graph.initializers.values():
        if value.name not in weights or value.const_value is None:
            continue
        weight = weights[value.name]
        halved = value.const_value.dtype != weight.dtype
        value.const_value = _halved(weight) if halved else weight
        value.shape = ir.Shape(weight.shape)
        for node, _ in value.uses():
            if node.op_type == "Cast":
                node.outputs[0].shape = ir.Shape(weight.shape)


def _halved(weight: ir.TensorProtocol) -> ir.LazyTensor:
    """The weight in float16, as the converter makes it, computed when it is first written."""

    def evaluate() -> ir.Tensor:
        return ir.tensor(convert_np_to_float16(weight.numpy()), name=weight.name)

    shape = ir.Shape(weight.shape)
    return ir.LazyTensor(evaluate, ir.DataType.FLOAT16, shape, cache=True, name=weight.name)


def _without_weight_types(proto: onnx.ModelProto) -> onnx.ModelProto:
    weights = {tensor.name for tensor in proto.graph.initializer}
    declared = [value for value in proto.graph.value_info if value.name not in weights]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(declared)
    return proto


def _clone_shared_weights(model: ir.Model, kept: Collection[str]) -> None:
    for value in list(model.graph.initializers.values()):
        if value.dtype != ir.DataType.FLOAT or value.const_value is None or not value.name:
            continue
        fp32 = [
            (node, index)
            for node, index in value.uses()
            if node.graph is not model.graph or node.name in kept or is_listed(node)
        ]
        if not fp32 or len(fp32) == len(value.uses()) or value.is_graph_output():
            continue
        name = f"{value.name}__fp32"
        while name in model.graph.initializers:  # cloned in an earlier round
            name += "_"
        clone = ir.Value(
            name=name,
            shape=value.shape,
            type=value.type,
            const_value=value.const_value,
        )
        model.graph.register_initializer(clone)
        for node, index in fp32:
            node.replace_input_with(index, clone)


def _cast_captures(model: ir.Model) -> None:
    casts: dict[ir.Value, ir.Value] = {}
    for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
        if node.graph is model.graph:
            continue
        for index, value in enumerate(node.inputs):
            if value is None or value.graph is not model.graph:
                continue
            if value.dtype == ir.DataType.FLOAT16:
                if value not in casts:
                    casts[value] = cast(model.graph, value, ir.DataType.FLOAT, "captured")
                node.replace_input_with(index, casts[value])


def cast(graph: ir.Graph, value: ir.Value, dtype: ir.DataType, suffix: str) -> ir.Value:
    """Append a Cast of ``value``; its result is called ``<value>__<suffix>``."""
    node = ir.node(
        "Cast", [value], attributes={"to": int(dtype)}, name=f"{value.name}__{suffix}_node"
    )
    result = node.outputs[0]
    result.name = f"{value.name}__{suffix}"
    result.shape = value.shape
    result.type = ir.TensorType(dtype)
    graph.append(node)
    return result


def _skip_round_trips(model: ir.Model) -> None:
    for up in list(model.graph):
        down = up.inputs[0].producer() if _is_cast(up, ir.DataType.FLOAT) and up.inputs[0] else None
        # Only the converter's own casts: one that stood in the model rounds on purpose.
        if down is None or not _is_cast(down, ir.DataType.FLOAT16) or not _is_added(down):
            continue
        source, target = down.inputs[0], up.outputs[0]
        if source is None or source.dtype != ir.DataType.FLOAT:
            continue
        if not target.is_graph_output():
            target.replace_all_uses_with(source)
        elif source.producer() is not None and not source.is_graph_output():
            position = model.graph.outputs.index(target)
            name = target.name
            target.replace_all_uses_with(source, replace_graph_outputs=True)
            target.name = f"{name}__unused"
            source.name = name
            assert model.graph.outputs[position] is source


def _is_cast(node: ir.Node, dtype: ir.DataType) -> bool:
    return node.op_type == "Cast" and bool(node.attributes["to"].as_int() == int(dtype))


def _is_added(node: ir.Node) -> bool:
    name = node.name or ""
    return name.endswith("_cast_to_fp16_node") or name.startswith("graph_input_cast")
