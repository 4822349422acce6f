"""Converts an fp32 graph to one with 16-bit tensors; the ONNX schema decides which ones can be.

1. A float32 input or output of a node becomes 16-bit if the operator's schema allows it. The scales
   of a Resize, for example, must be float32 and stay.
2. These nodes stay in fp32 whole: nodes that the caller names, control flow, custom operators,
   nodes with sequences or optionals, and the operators of :attr:`.CastFormat.wide`.
3. A node that computes no floats, such as a comparison or a TopK with only its indices in use,
   reads float32 and loses nothing. QuantizeLinear and Shape read 16 bits.
4. A weight that is read in both types exists twice. Everywhere else a Cast joins different types.
5. Graph inputs and outputs keep float32, unless the caller asks for 16-bit ones. The same rule
   holds for an output that is an initialiser, an input, or named twice.
6. Outputs without a name, such as the unused sequence of a GRU, are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from deployfold.lowering.containers import is_container
from deployfold.lowering.graph import cast, is_tensor, lazy
from deployfold.util.onnx_values import inner_graphs

from .formats import CastFormat

_OWN_TYPE = frozenset(
    "Bernoulli CastLike Constant ConstantOfShape EyeLike Multinomial RandomNormal RandomNormalLike "
    "RandomUniform RandomUniformLike Range".split()
)
"""Operators whose output type comes from an attribute or another input, or that count positions."""

_READ_ANY = frozenset({"QuantizeLinear", "Shape", "Size"})
"""Operators that compute no floats and may read 16 bits without loss."""

_OWN_OUTPUTS = {"LayerNormalization": frozenset({1, 2})}
"""Outputs with a separate type: the mean and deviation have the type of ``stash_type``."""

_FP32 = ir.DataType.FLOAT


@dataclass(frozen=True)
class NodePlan:
    """The conversion plan of one node.

    Attributes:
        inputs, outputs: positions that become 16-bit.
        reason: why a node that computes in floats stays in fp32; ``None`` for other nodes.
    """

    inputs: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()
    reason: str | None = None


Plans = dict[ir.Node, NodePlan]


@dataclass
class _Casts:
    """Casts tensors to the other type; each tensor gets at most one Cast.

    Attributes:
        made: the cast version of each tensor.
    """

    graph: ir.Graph
    form: CastFormat
    made: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def of(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        if value not in self.made:
            suffix = self.form.name if dtype == self.form.dtype else "fp32"
            self.made[value] = cast(self.graph, value, dtype, suffix)
        return self.made[value]


def plan_nodes(model: ir.Model, form: CastFormat, kept: Mapping[str, str]) -> Plans:
    """Plan the conversion of every node of the main graph.

    Args:
        model: a model after :func:`~deployfold.lowering.graph.prepare`.
        kept: nodes that stay in fp32, by name, with the reason.
    """
    opset = model.opset_imports[""]
    return {node: _plan(node, opset, form, kept) for node in model.graph}


def convert(
    model: ir.Model, form: CastFormat, kept: Mapping[str, str], *, float_io: bool = True
) -> list[tuple[ir.Node, str]]:
    """Turn a prepared model's float32 tensors into 16-bit ones, in place.

    Each weight is converted only when the file is written, so a model's external data can stay in
    its file.

    Args:
        model: a model after :func:`~deployfold.lowering.graph.prepare`.
        kept: nodes of the main graph that stay in fp32, by name, with the reason.

    Returns:
        The nodes that compute in floats and stay in fp32, with the reason.
    """
    graph = model.graph
    plans = plan_nodes(model, form, kept)
    tensors = [value for value in graph.inputs if is_tensor(value, _FP32)]
    for value in tensors if not float_io else ():
        value.type = ir.TensorType(form.dtype)
    weights = [value for value in graph.initializers.values() if is_tensor(value, _FP32)]
    for node, plan in plans.items():
        for index, value in enumerate(node.outputs):
            if not value.name or not is_tensor(value, _FP32):
                continue
            tensors.append(value)
            if index in plan.outputs:
                value.type = ir.TensorType(form.dtype)
        if node.op_type == "Cast" and plan.outputs:
            node.attributes["to"] = ir.AttrInt64("to", int(form.dtype))
    for value in weights:
        _split_weight(graph, value, plans, form, float_io)
    casts = _Casts(graph, form)
    for value in tensors:
        _connect(value, plans, casts)
    _set_outputs(graph, form, casts, float_io)
    common.RemoveUnusedNodesPass()(model)
    graph.sort()
    return [(node, plan.reason) for node, plan in plans.items() if plan.reason is not None]


def _plan(node: ir.Node, opset: int, form: CastFormat, kept: Mapping[str, str]) -> NodePlan:
    reads = {i: v for i, v in enumerate(node.inputs) if is_tensor(v, _FP32)}
    own = _OWN_OUTPUTS.get(node.op_type, frozenset())
    makes = {
        i: v for i, v in enumerate(node.outputs) if v.name and is_tensor(v, _FP32) and i not in own
    }
    if inner_graphs(node):
        return NodePlan(reason="control flow is kept whole")
    if any(is_container(value) for value in (*node.inputs, *node.outputs)):
        return NodePlan(reason="sequences are kept whole")
    if node.name in kept:
        return NodePlan(reason=kept[str(node.name)] if reads or makes else None)
    if node.op_type == "Cast":
        return NodePlan(outputs=frozenset(makes))
    if node.op_type in _OWN_TYPE or not (makes or node.op_type in _READ_ANY):
        return NodePlan()
    if node.domain not in ("", "ai.onnx"):
        return NodePlan(reason=f"{node.domain} is not a standard operator set")
    if node.op_type in form.wide:
        return NodePlan(reason=form.wide[node.op_type])
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    wanted = f"tensor({form.dtype.name.lower()})"
    narrow = {
        constraint.type_param_str
        for constraint in schema.type_constraints
        if wanted in constraint.allowed_type_strs
    }
    inputs, outputs = (
        frozenset(i for i in found if formal[min(i, len(formal) - 1)].type_str in narrow)
        for found, formal in ((reads, schema.inputs), (makes, schema.outputs))
    )
    if len(outputs) < len(makes) or (node.op_type in _READ_ANY and len(inputs) < len(reads)):
        return NodePlan(reason=f"ONNX has no {node.op_type} in {form.name}")
    return NodePlan(inputs, outputs)


def wants_narrow(plans: Plans, node: ir.Node, index: int) -> bool:
    """Whether a node reads its input ``index`` in 16 bits; a node in a subgraph never does."""
    return node in plans and index in plans[node].inputs


def _split_weight(
    graph: ir.Graph, value: ir.Value, plans: Plans, form: CastFormat, float_io: bool
) -> None:
    weight = value.const_value
    uses = [(n, i) for n, i in value.uses() if wants_narrow(plans, n, i)]
    output = value.is_graph_output()
    alone = len(uses) == len(value.uses()) and not (output and float_io)
    if weight is None or not (uses or (output and alone)):
        return
    name = str(value.name)
    if alone:
        narrow = value
    else:
        name = f"{name}__{form.name}"
        narrow = ir.Value(name=name, shape=value.shape)
    narrow.const_value = lazy(weight, form.dtype, name, form.round_weight, cache=True)
    narrow.type = ir.TensorType(form.dtype)
    if narrow is not value:
        graph.register_initializer(narrow)
        for node, index in uses:
            node.replace_input_with(index, narrow)


def _connect(value: ir.Value, plans: Plans, casts: _Casts) -> None:
    narrow = casts.form.dtype
    for node, index in list(value.uses()):
        wanted = narrow if wants_narrow(plans, node, index) else _FP32
        if wanted != value.dtype and node.op_type != "Cast":  # a Cast reads any type
            node.replace_input_with(index, casts.of(value, wanted))


def _set_outputs(graph: ir.Graph, form: CastFormat, casts: _Casts, float_io: bool) -> None:
    """Give every floating-point graph output the wanted type, and keep the output's name."""
    wanted, other = (_FP32, form.dtype) if float_io else (form.dtype, _FP32)
    replaced: dict[ir.Value, ir.Value] = {}
    for position, value in enumerate(graph.outputs):
        if value not in replaced and is_tensor(value, other):
            made = value.is_initializer()
            result = cast(graph, value, wanted, "output") if made else casts.of(value, wanted)
            name = str(value.name)
            value.name = f"{name}__{'wide' if wanted == form.dtype else form.name}"
            result.name = name
            replaced[value] = result
        graph.outputs[position] = replaced.get(value, value)
