"""Graph operations that every family shares: reading, preparing, casting and writing an ONNX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from deployfold.config.precision import Precision
from deployfold.errors import ExportError, first_line
from deployfold.exporting.onnx import check_file
from deployfold.exporting.onnx_graph import set_metadata
from deployfold.exporting.storage import write_model
from deployfold.util.arrays import Array
from deployfold.util.onnx_files import onnx_bytes
from deployfold.util.quiet import quiet

from .containers import restore_containers

PRECISION_KEY = "deployfold.precision"
"""The key of a lowered ONNX's metadata that holds its precision."""


def load(source: Path, *, weights: bool = True) -> ir.Model:
    """Read an exported ONNX file.

    Args:
        weights: read the weights into memory as well. Otherwise external data of the main graph
            stays in its file, and the file must outlive the model.

    Raises:
        ExportError: the file cannot be read.
    """
    try:
        model = ir.load(source)
        if weights:
            ir.external_data.load_to_model(model)
        for graph in model.graphs():
            for value in () if graph is model.graph else graph.initializers.values():
                if isinstance(value.const_value, ir.ExternalTensor):
                    value.const_value = ir.tensor(value.const_value.numpy(), name=value.name)
    except Exception as error:
        raise ExportError(
            f"{source.name} cannot be read as ONNX: {first_line(error)}",
            hint="Give the .onnx file that deployfold export wrote, with its .data file beside it.",
        ) from error
    return model


def write(model: ir.Model, path: Path, precision: Precision, *, threshold: int) -> int:
    """Write a lowered model with its precision in the metadata; returns its bytes.

    Args:
        threshold: bytes of weights from which they go to a file of their own.

    Raises:
        ExportError: ONNX's checker refuses the file.
    """
    set_metadata(model, {PRECISION_KEY: precision.value})
    write_model(model, path, threshold=threshold)
    check_file(path)
    return onnx_bytes(path)


def prepare(model: ir.Model) -> None:
    """Bring a graph into the form that the other lowering functions expect, in place.

    Afterwards functions are inlined, constants are initialisers, node names are unique, and types
    and shapes are inferred.
    """
    with quiet():
        common.InlinePass()(model)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        common.RemoveInitializersFromInputsPass()(model)
        common.NameFixPass()(model)
        common.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    restore_containers(model)


def holds(model: ir.Model, dtype: ir.DataType) -> bool:
    """Whether an input, an output or a weight of the main graph has the type ``dtype``."""
    values = [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]
    return any(value.dtype == dtype for value in values)


def is_tensor(value: ir.Value | None, dtype: ir.DataType) -> bool:
    """Whether a value is a tensor of type ``dtype``; false for a sequence or an optional."""
    return value is not None and isinstance(value.type, ir.TensorType) and value.dtype == dtype


def operand(node: ir.Node, index: int) -> ir.Value:
    """An input that the operator of a node cannot do without.

    Raises:
        ExportError: the graph leaves the input out.
    """
    value = node.inputs[index]
    if value is None:
        raise ExportError(f"The node {node.name!r} ({node.op_type}) lacks its input {index}.")
    return value


def weight_of(value: ir.Value) -> ir.TensorProtocol:
    """The tensor of an initialiser; ``ExportError`` if the graph computes the value."""
    if value.const_value is None:
        raise ExportError(f"The tensor {value.name!r} is computed by the graph, not constant.")
    return value.const_value


def complete_types(model: ir.Model, dtypes: Mapping[str, np.dtype[np.generic]]) -> None:
    """Give each untyped tensor of the main graph the dtype observed at run time, in place."""
    for node in model.graph:
        for value in node.outputs:
            if value.type is None and value.name in dtypes:
                value.type = ir.TensorType(ir.DataType.from_numpy(dtypes[value.name]))


def lazy(
    weight: ir.TensorProtocol,
    dtype: ir.DataType,
    name: str | None,
    numbers: Callable[[Array], Array],
    *,
    cache: bool = False,
) -> ir.LazyTensor:
    """A weight in another type; its numbers are computed at each write, or once with ``cache``."""

    def evaluate() -> ir.Tensor:
        return ir.tensor(numbers(weight.numpy()), name=name)

    return ir.LazyTensor(evaluate, dtype, ir.Shape(weight.shape), cache=cache, name=name)


def cast(graph: ir.Graph, value: ir.Value, dtype: ir.DataType, suffix: str) -> ir.Value:
    """Append a Cast of ``value`` to ``dtype``; the new tensor's name is ``<value>__<suffix>``."""
    node = ir.node(
        "Cast", [value], attributes={"to": int(dtype)}, name=f"{value.name}__{suffix}_node"
    )
    result = node.outputs[0]
    result.name = f"{value.name}__{suffix}"
    result.shape = value.shape
    result.type = ir.TensorType(dtype)
    graph.append(node)
    return result
