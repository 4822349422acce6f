"""ONNX graphs for the lowering tests, built node by node or exported from small models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch
from export_toys import export_onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from deployfold.config.inputs import InputSpec, TensorSpec
from deployfold.exporting.session import open_session, run_session
from deployfold.lowering.graph import prepare

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def write_graph(
    path: Path,
    nodes: Sequence[NodeProto],
    *,
    outputs: Sequence[str] = ("y",),
    weights: Mapping[str, NDArray[np.generic]] | None = None,
    shape: Sequence[int | str] = ("batch", 4),
    dtype: int = FLOAT,
    functions: Sequence[onnx.FunctionProto] = (),
) -> Path:
    """One input ``x``; every output has the input's shape and dtype."""
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info(name, dtype, shape) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=list(functions))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path


def node(op_type: str, inputs: str, output: str, **attributes: object) -> NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], name=f"n_{output}", **attributes)


def export_module(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], path: Path) -> Path:
    """Export by the TorchScript-based exporter, which is faster."""
    spec = InputSpec(tuple(TensorSpec(tuple(value.shape)) for value in inputs))
    return export_onnx(module, inputs, path, spec=spec, metadata={"k": "v"}).path


def prepared(
    module: torch.nn.Module, inputs: torch.Tensor, directory: Path
) -> tuple[ir.Model, list[dict[str, NDArray[np.generic]]]]:
    """A model as quantising sees it, and each of ``inputs`` (along the first axis) as its feed."""
    source = directory / "net.onnx"
    export_module(module.eval(), (inputs[:1],), source)
    model = ir.load(source)
    prepare(model)
    (name,) = (value.name for value in model.graph.inputs)
    return model, [{str(name): sample[None].numpy()} for sample in inputs]


def outputs(
    model: ir.Model, feeds: Sequence[Mapping[str, NDArray[np.generic]]]
) -> list[NDArray[np.generic]]:
    """The first output of a model for every feed."""
    session = open_session(ir.to_proto(model).SerializeToString(), optimize=False)
    return [run_session(session, feed)[0] for feed in feeds]


def normal(shape: Sequence[int], seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(tuple(shape), np.float32)


def types(path: Path) -> dict[str, int]:
    """The element type of every tensor of a model, by full shape inference, by name."""
    model = onnx.shape_inference.infer_shapes(onnx.load(str(path)), strict_mode=True)
    graph = model.graph
    found = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output)}
    found |= {value.name: value.type.tensor_type.elem_type for value in graph.input}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


def node_types(path: Path) -> dict[str, int]:
    """The element type that each node of the main graph computes, by node name."""
    found = types(path)
    return {n.name: found[n.output[0]] for n in onnx.load(str(path)).graph.node}
