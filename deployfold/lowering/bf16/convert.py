"""From an fp32 graph to one with bfloat16 tensors.

ONNX Runtime's converter knows float16 alone. bfloat16 has the range of float32, so nothing here
depends on values; what a node may be is read from its ONNX schema:

1. a float32 input or output of a node becomes bfloat16 where the schema of the operator allows it;
   the scales of a Resize, which must be float32, stay;
2. control flow is kept whole, and so are custom operators and those of :data:`WIDE`;
3. a node that computes no floats, such as a comparison, reads float32: nothing is lost by that;
4. a weight that is read in both types is there twice, and a Cast stands wherever else types meet;
5. graph inputs and outputs stay float32.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from deployfold.lowering.fp16.convert import cast, has_subgraph

OPSET = 22
"""The first in which convolutions and pools take bfloat16."""

WIDE = frozenset("ConvTranspose GRU HardSwish LpPool MeanVarianceNormalization Mish".split())
"""Operators that ONNX has in bfloat16 and TensorRT-RTX 1.7.1 does not build."""

_OWN_TYPE = frozenset(
    "Bernoulli Cast CastLike ConstantOfShape EyeLike Multinomial RandomNormal RandomNormalLike "
    "RandomUniform RandomUniformLike Range".split()
)
"""Operators whose output has the type that the node says, or that counts positions."""

_BF16, _FP32 = ir.DataType.BFLOAT16, ir.DataType.FLOAT
_LARGEST = (2 - 2**-7) * 2.0**127


@dataclass(frozen=True)
class _Plan:
    """The positions of a node's inputs and outputs that become bfloat16, and why none does."""

    inputs: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()
    reason: str | None = None


@dataclass
class _Casts:
    """The other version of a tensor, made once."""

    graph: ir.Graph
    made: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def of(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        if value not in self.made:
            suffix = "bf16" if dtype == _BF16 else "fp32"
            self.made[value] = cast(self.graph, value, dtype, suffix)
        return self.made[value]


def convert(model: ir.Model) -> list[tuple[ir.Node, str]]:
    """Turn a prepared model's float32 tensors into bfloat16, in place.

    Weights must be in memory. Finite ones beyond bfloat16's largest value, such as float32's own
    in an attention mask, become that value and not infinite.

    Returns:
        The nodes that compute in floats and stay in fp32, with the reason.
    """
    graph = model.graph
    opset = model.opset_imports[""]
    plans = {node: _plan(node, opset) for node in graph}
    weights = [v for v in graph.initializers.values() if v.dtype == _FP32]
    tensors = [v for v in graph.inputs if v.dtype == _FP32]
    for node, plan in plans.items():
        for index, value in enumerate(node.outputs):
            if index in plan.outputs:
                value.type = ir.TensorType(_BF16)
                tensors.append(value)
            elif value.dtype == _FP32:
                tensors.append(value)
    for value in weights:
        _split_weight(graph, value, plans)
    casts = _Casts(graph)
    for value in tensors:
        _connect(graph, value, plans, casts)
    common.RemoveUnusedNodesPass()(model)
    graph.sort()
    return [(node, plan.reason) for node, plan in plans.items() if plan.reason is not None]


def _plan(node: ir.Node, opset: int) -> _Plan:
    reads = {i: v for i, v in enumerate(node.inputs) if v is not None and v.dtype == _FP32}
    makes = {i: v for i, v in enumerate(node.outputs) if v.dtype == _FP32}
    if has_subgraph(node):
        return _Plan(reason="control flow is kept whole")
    if not makes or node.op_type in _OWN_TYPE:
        return _Plan()
    if node.domain not in ("", "ai.onnx"):
        return _Plan(reason=f"{node.domain} is not a standard operator set")
    if node.op_type in WIDE:
        return _Plan(reason=f"TensorRT-RTX does not build {node.op_type} in bf16")
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    narrow = {
        constraint.type_param_str
        for constraint in schema.type_constraints
        if "tensor(bfloat16)" in constraint.allowed_type_strs
    }
    inputs, outputs = (
        frozenset(i for i in found if formal[min(i, len(formal) - 1)].type_str in narrow)
        for found, formal in ((reads, schema.inputs), (makes, schema.outputs))
    )
    if len(outputs) < len(makes):
        return _Plan(reason=f"ONNX has no {node.op_type} in bf16")
    return _Plan(inputs, outputs)


def _wants_bf16(plans: dict[ir.Node, _Plan], node: ir.Node, index: int) -> bool:
    return node in plans and index in plans[node].inputs  # not in plans: inside control flow


def _split_weight(graph: ir.Graph, value: ir.Value, plans: dict[ir.Node, _Plan]) -> None:
    uses = [(n, i) for n, i in value.uses() if _wants_bf16(plans, n, i)]
    if not uses or value.const_value is None:
        return
    array = value.const_value.numpy()
    clipped = np.where(np.isfinite(array), np.clip(array, -_LARGEST, _LARGEST), array)
    name = str(value.name)
    if len(uses) == len(value.uses()) and not value.is_graph_output():
        narrow = value
    else:
        name = f"{name}__bf16"
        narrow = ir.Value(name=name, shape=value.shape)
    narrow.const_value = ir.tensor(clipped.astype(_BF16.numpy()), name=name)
    narrow.type = ir.TensorType(_BF16)
    if narrow is not value:
        graph.register_initializer(narrow)
        for node, index in uses:
            node.replace_input_with(index, narrow)


def _connect(graph: ir.Graph, value: ir.Value, plans: dict[ir.Node, _Plan], casts: _Casts) -> None:
    is_narrow = value.dtype == _BF16
    for node, index in list(value.uses()):
        wants = _wants_bf16(plans, node, index)
        if wants != is_narrow:
            node.replace_input_with(index, casts.of(value, _BF16 if wants else _FP32))
    if is_narrow and value.is_graph_output():
        wide = casts.of(value, _FP32)
        value.name, wide.name = f"{value.name}__bf16", value.name
        for position, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[position] = wide
