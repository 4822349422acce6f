"""Converts an ONNX of another exporter to the form of deployfold's own exports."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants

from deployfold.config.inputs import InputSpec
from deployfold.util.quiet import quiet

from .dynamic import BATCH_AXIS
from .onnx_graph import count_nodes

_OTHER_FLOATS = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
_WEIGHTS_APART = 4
_DTYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype"})
"""Attributes with the type of a node's output."""


def repair(model: ir.Model) -> None:
    """Mend what ONNX Runtime overlooks in a file and other readers refuse, in place.

    1. Before IR version 4, weights were listed among the inputs.
    2. A size below zero is a free one, and the graph needs a name.
    3. Recorded sizes that contradict the inputs, as edits of a graph leave them, are corrected.
    4. Functions are inlined, because onnx's converter of opsets does not know them.
    """
    model.ir_version = max(model.ir_version, _WEIGHTS_APART)
    model.graph.name = model.graph.name or "main"
    with quiet():
        common.RemoveInitializersFromInputsPass()(model)
        common.InlinePass()(model)
    for value in model.graph.inputs:
        value.shape = _free(value)
    known = {str(size) for value in model.graph.inputs for size in value.shape or ()}
    made = [one for one in _values(model) if one.shape is not None and one.producer() is not None]
    recorded = [list(value.shape or ()) for value in made]
    for value in made:
        value.shape = None
    with quiet():
        common.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    for value, before in zip(made, recorded, strict=True):
        found = before if value.shape is None else list(value.shape)
        if len(found) == len(before):
            found = [
                new if isinstance(new, int) or str(new) in known else old
                for old, new in zip(before, found, strict=True)
            ]
        value.shape = ir.Shape(found)


def _free(value: ir.Value) -> ir.Shape | None:
    """The shape of an input, with a name for each size below zero."""
    if value.shape is None:
        return None
    names = (BATCH_AXIS, *(f"{value.name}_dim_{axis}" for axis in range(1, len(value.shape))))
    return ir.Shape(
        [
            name if isinstance(size, int) and size < 0 else size
            for name, size in zip(names, value.shape, strict=False)
        ]
    )


def in_single_precision(model: ir.Model) -> tuple[ir.DataType, ...]:
    """Replace float16, bfloat16 and float64 by float32 in the whole model, in place.

    float32 represents every float16 and bfloat16 number exactly; float64 is rounded. Inputs and
    outputs are converted too. The lowering stage starts from float32.

    Returns:
        The types that were replaced; empty if the model was in float32.
    """
    found = {
        value.dtype for value in _values(model) if value.dtype in _OTHER_FLOATS
    }  # fmt: skip
    if not found:
        return ()
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.dtype in found:
                value.const_value = _single(tensor)
        for node in graph:
            _change_attributes(node)
    for value in _values(model):
        if value.dtype in found:
            value.dtype = ir.DataType.FLOAT
    return tuple(sorted(found, key=lambda dtype: dtype.name))


def with_branches_decided(model: ir.Model, inputs: InputSpec) -> tuple[ir.Model, int]:
    """Replace each ``If`` whose condition follows from the shapes of the inputs by its branch.

    Exporters of TorchScript write such branches: whether a Squeeze finds an axis of size 1. No
    engine takes branches whose outputs differ in shape, and no lowering looks inside.

    Args:
        model: stays as it is.
        inputs: in the order of the graph; their dynamic axes stay free.

    Returns:
        A model for these shapes, and the number of branches that are gone; the same model and 0 if
        no condition follows.
    """
    before = count_nodes(model, "If")
    if not before:
        return model, 0
    decided = ir.from_proto(ir.to_proto(model))
    asked = zip(inputs.tensors, inputs.dynamic_axes, strict=True)
    for value, (tensor, axes) in zip(decided.graph.inputs, asked, strict=True):
        sizes = enumerate(zip(tensor.shape, value.shape or (), strict=True))
        value.shape = ir.Shape([own if axis in axes else size for axis, (size, own) in sizes])
    with quiet():
        changed = True
        while changed:
            common.ShapeInferencePass(check_type=False, strict_mode=False)(decided)
            changed = fold_constants(decided, should_fold=_is_foldable).modified
            common.RemoveUnusedNodesPass()(decided)
    gone = before - count_nodes(decided, "If")
    return (decided, gone) if gone else (model, 0)


def _is_foldable(node: ir.Node) -> bool | None:
    """Keep the Q/DQ pairs of weights; the pass decides about other nodes."""
    return False if node.op_type in ("QuantizeLinear", "DequantizeLinear") else None


def drop_identities(model: ir.Model) -> None:
    """Replace the outputs of Identity nodes by their inputs, so that weights are initialisers.

    Exporters write Identity nodes for shared weights and for constants; a Cast to the type of its
    input is one too, such as :func:`in_single_precision` leaves. An Identity stays whose
    output is an output of its graph, if the input comes from outside of that graph or is an output
    too: onnx-ir's own pass fails on these, which the branches of an ``If`` have.
    """
    for graph in (*model.graphs(), *model.functions.values()):
        for node in list(graph):
            source = node.inputs[0] if _is_identity(node) else None
            if source is None:
                continue
            output = node.outputs[0]
            name = output.name if output.is_graph_output() else None
            producer = source.producer()
            inside = producer is not None and producer.graph is node.graph
            if name is not None and (not inside or source.is_graph_output()):
                continue
            source.shape = output.shape if source.shape is None else source.shape
            source.type = output.type if source.type is None else source.type
            output.replace_all_uses_with(source, replace_graph_outputs=True)
            source.name = source.name if name is None else name
            graph.remove(node, safe=True)


def _is_identity(node: ir.Node) -> bool:
    source = node.inputs[0] if node.inputs and not node.domain else None
    if node.op_type == "Cast" and source is not None:
        return bool(source.dtype == node.attributes["to"].as_int())
    return source is not None and node.op_type == "Identity"


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from graph.inputs
        yield from graph.outputs
        yield from graph.initializers.values()
        for node in graph:
            yield from node.outputs


def _single(tensor: ir.TensorProtocol) -> ir.Tensor:
    array = tensor.numpy().astype(ir.DataType.FLOAT.numpy())
    return ir.tensor(array, name=tensor.name)


def _change_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR:
            tensor = attribute.as_tensor()
            if tensor.dtype in _OTHER_FLOATS:
                node.attributes[name] = ir.AttrTensor(name, _single(tensor))
        elif (
            name in _DTYPE_ATTRIBUTES
            and attribute.type == ir.AttributeType.INT
            and attribute.as_int() in _OTHER_FLOATS
        ):
            node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))
