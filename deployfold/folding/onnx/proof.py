"""Proves a change in float64: the nodes around a BatchNorm before and after, on random numbers.

A change touches a few neighbouring nodes and leaves the rest of the graph as it is, so proving the
change proves the model. Both small graphs are run by ``onnx``'s reference implementation, which
computes in float64 and shares no code with the rules. The map is affine: if it is right on random
numbers, it is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from .change import PRODUCER, Array, Change, LayerChange, constant

_OPSET = 15
"""The operators of a change mean the same in opsets 9 to 22. In the reference of onnx 1.23,
BatchNormalization of opset 9 to 13 updates its statistics as in training."""


def relative_difference(change: Change) -> float:
    """The largest difference over the largest output, in float64; ``inf`` where a side fails."""
    random = np.random.default_rng(0).standard_normal(change.probe)
    layers = [one.node for one in change.layers]
    producer = change.rule == PRODUCER
    old = [*layers, change.norm] if producer else [change.norm, *layers]
    values = {value for node in old for value in node.inputs if constant(value) is not None}
    constants = {str(one.name): np.asarray(constant(one), np.float64) for one in values}
    source = (layers[0] if producer else change.norm).inputs
    entry = next(str(one.name) for one in source if one is not None and constant(one) is None)
    results = [change.norm.outputs[0]] if producer else [one.outputs[0] for one in layers]
    names = [str(value.name) for value in results]
    before = _run([ir.to_proto(node) for node in old], constants, {entry: random}, names)
    renamed = {str(change.norm.outputs[0].name): str(change.norm.inputs[0].name)}
    nodes: list[onnx.NodeProto] = []
    for one in change.layers:
        nodes += _changed(one, constants, {} if producer else renamed)
    last = nodes[-1].output[0]
    after = _run(nodes, constants, {entry: random}, [last] if producer else names)
    if before is None or after is None:
        return float("inf")
    return max(_relative(expected, found) for expected, found in zip(before, after, strict=True))


def _changed(
    one: LayerChange, constants: dict[str, Array], renamed: Mapping[str, str]
) -> list[onnx.NodeProto]:
    """The node with its new constants, which are added to ``constants``."""
    proto = ir.to_proto(one.node)
    for position, name in enumerate(proto.input):
        proto.input[position] = renamed.get(name, name)
    for position, array in one.constants.items():
        while len(proto.input) <= position:
            proto.input.append("")
        name = f"{proto.output[0]}/new{position}"
        constants[name] = array
        proto.input[position] = name
    for key, number in one.attributes.items():
        kept = [attribute for attribute in proto.attribute if attribute.name != key]
        del proto.attribute[:]
        proto.attribute.extend([*kept, helper.make_attribute(key, number)])
    if one.shift is None:
        return [proto]
    result, constants[f"{proto.output[0]}/shift"] = proto.output[0], one.shift
    proto.output[0] = f"{result}/product"
    added = helper.make_node("Add", [proto.output[0], f"{result}/shift"], [result])
    return [proto, added]


def _run(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, Array],
    feeds: Mapping[str, Array],
    outputs: Sequence[str],
) -> list[Array] | None:
    constants = dict(constants)
    nodes = [_ungrouped(node, constants) for node in nodes]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        list(nodes),
        "probe",
        [helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in feeds],
        [helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in outputs],
        [numpy_helper.from_array(constants[name], name) for name in constants if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    try:
        return list(ReferenceEvaluator(model).run(None, dict(feeds)))
    except Exception:  # the reference lacks some attributes; an unproved change is not made
        return None


def _ungrouped(node: onnx.NodeProto, constants: dict[str, Array]) -> onnx.NodeProto:
    """A ConvTranspose in groups, which the reference lacks, as one with zeros between them."""
    groups = next((one.i for one in node.attribute if one.name == "group"), 1)
    if node.op_type != "ConvTranspose" or groups == 1:
        return node
    weight = constants[node.input[1]]  # (in, out / groups, *kernel)
    rows, columns = weight.shape[0] // groups, weight.shape[1]
    whole = np.zeros((weight.shape[0], columns * groups, *weight.shape[2:]))
    for group in range(groups):
        own = slice(group * rows, (group + 1) * rows)
        whole[own, group * columns : (group + 1) * columns] = weight[own]
    plain = onnx.NodeProto()
    plain.CopyFrom(node)
    constants[f"{node.input[1]}/whole"] = whole
    plain.input[1] = f"{node.input[1]}/whole"
    kept = [one for one in plain.attribute if one.name != "group"]
    del plain.attribute[:]
    plain.attribute.extend(kept)
    return plain


def _relative(expected: Array, found: Array) -> float:
    if expected.shape != found.shape or not np.isfinite(found).all():
        return float("inf")
    scale = float(np.abs(expected).max(initial=0.0))
    difference = float(np.abs(expected - found).max(initial=0.0))
    return difference / scale if scale else difference
