"""The normalisation of raw uint8 frames in an ONNX graph.

:func:`insert` writes the operations of :class:`~deployfold.folding.frames.Frames` as nodes in front
of the model. :func:`absorb` then folds them into the layers behind, by the rules and the proof of
BatchNormalization nodes: scale, channel order, mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from deployfold.errors import UsageError
from deployfold.folding.frames import Frames, absorbed_note
from deployfold.folding.proof.verify import TOLERANCE
from deployfold.util.onnx_values import constant, initializer

from .change import Change, apply, label
from .proof import relative_difference
from .rules import into_consumers, pads

_OLDEST = 7
"""Older opsets broadcast by an attribute."""

_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)
_STEPS = {"Mul": "the scale", "Gather": "the channel order", "Sub": "the mean"}


def insert(model: ir.Model, frames: Frames) -> None:
    """Make ``model`` take uint8 frames and normalise them itself, in place.

    The nodes are Cast, Transpose, Sub, Gather and Mul, in this order; the input keeps its name. If
    the model transposes its input first, the nodes go behind that Transpose.

    Raises:
        UsageError: the model is of an opset before 7.
    """
    if model.opset_imports.get("", _OLDEST) < _OLDEST:
        raise UsageError(
            f"--image-input needs opset {_OLDEST}, and this ONNX has {model.opset_imports['']}.",
            hint="Export it again with a newer opset.",
        )
    graph = model.graph
    given = graph.inputs[0]
    dtype, shape, name = given.dtype, given.shape, str(given.name)
    entry, own = _entry(given, frames.own_layout)
    order = None
    if frames.layout != frames.own_layout:
        order = _TO_NHWC if frames.layout == "nhwc" else _TO_NCHW
    taken = ir.Shape([shape[axis] for axis in order or range(4)]) if shape else None
    pixels = ir.Input(name, taken, ir.TensorType(ir.DataType.UINT8))
    nodes: list[ir.Node] = []

    def then(kind: str, *more: ir.Value, **attributes: Any) -> None:
        source = nodes[-1].outputs[0] if nodes else pixels
        node = ir.node(kind, [source, *more], attributes, name=f"{name}/{kind}{len(nodes)}")
        node.outputs[0].name = f"{node.name}_output"
        nodes.append(node)

    axis = 1 if own == "nchw" else 3
    along = (1, -1, 1, 1) if own == "nchw" else (1, 1, 1, -1)
    then("Cast", to=int(ir.DataType.FLOAT))
    if frames.layout != own:
        then("Transpose", perm=_TO_NCHW if own == "nchw" else _TO_NHWC)
    if frames.mean is not None:
        mean = frames.mean.numpy().reshape(along)
        then(
            "Sub", initializer(graph, f"{name}/mean", np.flip(mean, axis) if frames.flip else mean)
        )
    if frames.flip:
        then("Gather", initializer(graph, f"{name}/order", np.array([2, 1, 0])), axis=axis)
    if frames.scale is not None:
        then(
            "Mul", initializer(graph, f"{name}/scale", frames.scale.detach().numpy().reshape(along))
        )
    if dtype != ir.DataType.FLOAT:
        then("Cast", to=int(dtype or ir.DataType.FLOAT))
    given.name = None
    graph.inputs[0] = pixels
    result = nodes[-1].outputs[0]
    ir.convenience.replace_all_uses_with(entry, result, replace_graph_outputs=True)
    if (transpose := entry.producer()) is not None:
        graph.remove(transpose, safe=True)
    result.dtype = ir.DataType.FLOAT if dtype is None else dtype
    graph.insert_before(graph[0], nodes)


def absorb(model: ir.Model, frames: Frames) -> str:
    """Fold the inserted nodes into the layers behind, where that is exact, in place.

    :func:`.proof.relative_difference` checks each fold. An operation stays where a first
    convolution pads, which concerns the mean, or where other nodes than convolutions read it.

    Returns:
        The note for the report.
    """
    steps = list(_steps(model.graph.inputs[0]))
    readers = [node for node, _ in steps[-1].outputs[0].uses()] if steps else []
    layers = [node for node in readers if node.op_type == "Conv"]
    done: list[str] = []
    stays: list[str] = []
    for node in reversed(steps):
        change = "an operation behind it stays" if stays else _change(node)
        if isinstance(change, str) or not relative_difference(change) <= TOLERANCE:
            stays.append(_STEPS[node.op_type])
            continue
        apply(change, model.graph)
        done.append(_STEPS[node.op_type])
    padding = next((label(node) for node in layers if pads(node)), None)
    return absorbed_note(frames.layout, done, stays, [label(node) for node in layers], padding)


def _entry(given: ir.Value, layout: str) -> tuple[ir.Value, str]:
    """The tensor to normalise, and its layout: the input, or the output of a first Transpose."""
    users = given.uses()
    if layout == "nhwc" and len(users) == 1 and not given.is_graph_output():
        node = users[0].node
        order = node.attributes.get("perm")
        inside = node.graph is given.graph
        if node.op_type == "Transpose" and inside and order and order.as_ints() == _TO_NCHW:
            return node.outputs[0], "nchw"
    return given, layout


def _steps(value: ir.Value) -> Iterator[ir.Node]:
    """The nodes of the normalisation behind an input, in graph order."""
    while len(value.uses()) == 1 and not value.is_graph_output():
        node = value.uses()[0].node
        if node.op_type in _STEPS and constant(node.inputs[1]) is not None:
            yield node
        elif node.op_type not in ("Cast", "Transpose"):
            return
        value = node.outputs[0]


def _change(node: ir.Node) -> Change | str:
    """The fold of one operation into the convolutions behind it, or the reason against it."""
    numbers = constant(node.inputs[1])
    if numbers is None or node.outputs[0].shape is None:
        return "it is not constant"
    one, zero = np.ones(numbers.size), np.zeros(numbers.size)
    wide = numbers.reshape(-1).astype(np.float64)
    if node.op_type == "Mul":
        return into_consumers(node, wide, zero)
    if node.op_type == "Sub":
        return into_consumers(node, one, -wide)
    change = into_consumers(node, one, zero)
    if isinstance(change, str):
        return change
    if any(layer.node.attributes.get_int("group", 1) > 1 for layer in change.layers):
        return "a convolution behind it has groups"
    layers = (
        replace(layer, constants={**layer.constants, 1: layer.constants[1][:, numbers]})
        for layer in change.layers
    )
    return replace(change, layers=tuple(layers))
