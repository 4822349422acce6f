"""Edits an exported ONNX graph: names, dynamic axes, metadata."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from deployfold.errors import ExportError

from .dynamic import BATCH_AXIS

Shapes = Sequence[tuple[int, ...]]
MODULE_KEY = "deployfold.module"
"""The metadata property of a node with its module's path, such as ``layer1.0.conv1``."""
_SCOPES_KEY = "pkg.torch.onnx.name_scopes"


def strip(model: ir.Model) -> None:
    """Remove the exporter's metadata, so that equal models give equal files.

    The dynamo exporter writes a Python stack trace with paths of this machine into every node. Only
    the path of a node's module stays, as :data:`MODULE_KEY`.
    """
    modules = {node: module_of(node) for node in model.graph}
    ClearMetadataAndDocStringPass()(model)
    for node, module in modules.items():
        if module:
            node.metadata_props[MODULE_KEY] = module
    model.doc_string = None
    model.metadata_props.clear()
    for graph in (*model.graphs(), *model.functions.values()):
        graph.metadata_props.clear()
        graph.doc_string = None
        values = [*graph.inputs, *(output for node in graph for output in node.outputs)]
        values += graph.initializers.values() if isinstance(graph, ir.Graph) else ()
        for value in values:
            value.metadata_props.clear()
            value.doc_string = None


def module_of(node: ir.Node) -> str | None:
    """The path of the innermost module that a node was exported from; ``None`` if unknown.

    The dynamo exporter lists the scopes around a node, with the operator at the end:
    ``['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'conv2d_1']``.
    """
    if MODULE_KEY in node.metadata_props:
        return str(node.metadata_props[MODULE_KEY])
    try:
        scopes = ast.literal_eval(node.metadata_props[_SCOPES_KEY])
        return str(scopes[-2])
    except (LookupError, ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def set_metadata(model: ir.Model, metadata: Mapping[str, str]) -> None:
    """Add metadata properties, sorted by key so that equal models give equal files."""
    merged = {**model.metadata_props, **metadata}
    model.metadata_props.clear()
    model.metadata_props.update(sorted(merged.items()))


def count_nodes(model: ir.Model, op_type: str) -> int:
    """The number of nodes of a type, with those of subgraphs and functions."""
    return sum(node.op_type == op_type for node in _all_nodes(model))


def operators(model: ir.Model) -> frozenset[str]:
    """The types of all nodes, with those of subgraphs and functions."""
    return frozenset(node.op_type for node in _all_nodes(model))


def _all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    for graph in (model.graph, *model.functions.values()):
        yield from ir.traversal.RecursiveGraphIterator(graph)


def non_finite_weights(model: ir.Model) -> list[str]:
    """The names of the initialisers with infinities or NaN."""
    floats = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)
    return [
        name
        for graph in model.graphs()
        for name, value in graph.initializers.items()
        if value.const_value is not None
        and value.const_value.dtype in floats
        and not np.isfinite(value.const_value.numpy()).all()
    ]


def restore_inputs(
    model: ir.Model, names: Sequence[str], dtypes: Sequence[str], shapes: Shapes
) -> list[str]:
    """Restore the graph's inputs and their order; return the names that the exporter dropped.

    An exporter drops inputs that the model does not use, and calls by name or position would fail.

    Raises:
        ExportError: the graph has an input of another name.
    """
    existing = {value.name: value for value in model.graph.inputs}
    unknown = [name for name in existing if name not in names]
    if unknown:
        raise ExportError(f"The exporter added an input {unknown[0]!r} to the graph.")
    missing = [name for name in names if name not in existing]
    for name, dtype, shape in zip(names, dtypes, shapes, strict=True):
        if name in missing:
            kind = ir.TensorType(ir.DataType[_ONNX_DTYPES.get(dtype, dtype.upper())])
            existing[name] = ir.Input(name, shape=ir.Shape(shape), type=kind)
    if [value.name for value in model.graph.inputs] != list(names):
        model.graph.inputs.clear()
        model.graph.inputs.extend(existing[name] for name in names)
    return missing


def name_axes(
    model: ir.Model,
    inputs: tuple[Shapes, Shapes],
    outputs: tuple[Shapes, Shapes],
    batches: tuple[int, int],
) -> None:
    """Name every dynamic batch axis ``batch``, and other dynamic axes after their first input.

    The dynamo exporter names an axis ``s77``, or makes its size constant; the fallback exporter may
    take an axis of size 1 for the batch. An axis is dynamic if the eager module's shapes differ in
    it between two sets of inputs; an output's axis that does not differ has no dynamic name.

    Args:
        inputs: the shapes of all inputs, in the first and in the second set.
        outputs: the same for the outputs.
        batches: the two batch sizes.

    Raises:
        ExportError: the exporter made a dynamic axis of an input a constant.
    """
    graph = model.graph
    names: dict[str, str] = {}
    for value, first, second in zip(graph.inputs, *inputs, strict=True):
        for axis, sizes in enumerate(zip(first, second, strict=True)):
            if sizes[0] != sizes[1]:
                name = axis_name(str(value.name), axis, sizes, batches)
                if not value.uses() and isinstance(value.shape, ir.Shape):
                    value.shape[axis] = name
                names.setdefault(_input_symbol(value, axis), name)
    for value, first, second in zip(graph.outputs, *outputs, strict=True):
        if value.shape is None or len(value.shape) != len(first):
            value.shape = ir.Shape([None] * len(first))
        for axis, sizes in enumerate(zip(first, second, strict=True)):
            if sizes == batches and sizes[0] != sizes[1]:
                symbol = _symbol(value, axis)
                if symbol is not None and re.fullmatch(r"\w+", symbol):
                    names.setdefault(symbol, BATCH_AXIS)
                _set_dim(value, axis, BATCH_AXIS)
            elif sizes[0] != sizes[1] and isinstance(value.shape[axis], int):
                _set_dim(value, axis, None)
    dynamic = {*names, *names.values()}
    for value, first, second in zip(graph.outputs, *outputs, strict=True):
        for axis, sizes in enumerate(zip(first, second, strict=True)):
            if sizes[0] == sizes[1] and _symbol(value, axis) in dynamic:
                _set_dim(value, axis, sizes[0])
    _rename_symbols(model, {old: new for old, new in names.items() if old != new})


def axis_name(name: str, axis: int, sizes: tuple[int, int], batches: tuple[int, int]) -> str:
    """``batch`` if the two sizes are the batch sizes, else the tensor's name and the axis."""
    return BATCH_AXIS if sizes == batches else f"{name}_dim_{axis}"


def _symbol(value: ir.Value, axis: int) -> str | None:
    """The symbol of an axis; ``None`` for a constant size and for an unknown one."""
    dimension = None if value.shape is None else value.shape[axis]
    return dimension.value if isinstance(dimension, ir.SymbolicDim) else None


def _input_symbol(value: ir.Value, axis: int) -> str:
    symbol = _symbol(value, axis)
    if symbol is not None:
        return symbol
    dimension = None if value.shape is None else value.shape[axis]
    what = "the batch size" if axis == 0 else f"the size of axis {axis},"
    raise ExportError(f"The exporter fixed {what} {dimension} in the input {value.name!r}.")


def _set_dim(value: ir.Value, axis: int, size: int | str | None) -> None:
    dimensions = list(value.shape or ())
    dimensions[axis] = size if isinstance(size, int) else ir.SymbolicDim(size)
    value.shape = ir.Shape(dimensions)


def _rename_symbols(model: ir.Model, names: Mapping[str, str]) -> None:
    if not names:
        return
    # Match whole words, because a dimension may be an expression such as 2*s77.
    pattern = re.compile(r"\b(?:" + "|".join(map(re.escape, sorted(names))) + r")\b")
    for graph in model.graphs():
        values = [*graph.inputs, *(output for node in graph for output in node.outputs)]
        for value in values:
            if value.shape is None:
                continue
            dimensions = [
                ir.SymbolicDim(pattern.sub(lambda found: names[found[0]], dimension.value))
                if isinstance(dimension, ir.SymbolicDim) and dimension.value
                else dimension
                for dimension in value.shape
            ]
            if dimensions != list(value.shape):
                value.shape = ir.Shape(dimensions)


_ONNX_DTYPES = {"float32": "FLOAT", "float64": "DOUBLE"}
