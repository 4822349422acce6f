"""Checks a fold in float64: runs the nodes around a BatchNorm on random numbers, before and after.

A change affects a few neighbouring nodes and keeps the rest of the graph, so a proof of the change
is a proof for the model. The reference implementation of ``onnx`` runs both small graphs. The
reference computes in float64 and shares no code with the rules. The map is affine, so equal results
on random numbers show that both graphs compute the same map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from deployfold.util.arrays import Array
from deployfold.util.onnx_values import constant

from .change import PRODUCER, Change, LayerChange

_OPSET = 15
"""The opset of the small graphs. The operators of a change mean the same in opsets 9 to 22. The
reference of onnx 1.23 updates the statistics of a BatchNormalization of opsets 9 to 13, as in
training, so the opset is newer than 13."""


def relative_difference(change: Change) -> float:
    """The largest difference between the outputs before and after, relative to the largest output.

    Both graphs compute in float64. The result is ``inf`` if either graph fails to run, or if the
    outputs after the change have another shape or are not finite.
    """
    random = np.random.default_rng(0).standard_normal(change.probe)
    layers = [one.node for one in change.layers]
    producer = change.rule == PRODUCER
    old = [*layers, change.norm] if producer else [change.norm, *layers]
    values = {value for node in old for value in node.inputs if constant(value) is not None}
    constants = {str(one.name): _wide(np.asarray(constant(one))) for one in values}
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
    """The changed node, with an Add for a shift. The function extends ``constants`` in place."""
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
    except Exception:  # the reference lacks some attributes; unproved changes stay out
        return None


def _ungrouped(node: onnx.NodeProto, constants: dict[str, Array]) -> onnx.NodeProto:
    """Rewrite a grouped ConvTranspose as one group with zero weights between the groups.

    The reference implementation lacks grouped ConvTranspose.
    """
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


def _wide(array: Array) -> Array:
    return array if array.dtype.kind in "iu" else array.astype(np.float64)


def _relative(expected: Array, found: Array) -> float:
    if expected.shape != found.shape or not np.isfinite(found).all():
        return float("inf")
    scale = float(np.abs(expected).max(initial=0.0))
    difference = float(np.abs(expected - found).max(initial=0.0))
    return difference / scale if scale else difference
