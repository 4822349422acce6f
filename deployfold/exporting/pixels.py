"""Moving the cast of uint8 pictures in front of the operators that need no uint8.

TensorRT takes a uint8 input, and the first operator that reads it must be a cast: it has no kernels
that permute, slice, pad or compare uint8. float32 holds every uint8 exactly, so the cast may come
first where an operator moves, selects or compares pixels. Arithmetic in uint8 wraps around, and
stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from deployfold.util.onnx_values import initializer

_ALL = range(1 << 16)
_PIXELS: dict[str, Sequence[int]] = {
    **dict.fromkeys(
        "Transpose Reshape Slice Gather GatherND GatherElements Squeeze Unsqueeze Flatten Identity "
        "Split DepthToSpace SpaceToDepth Expand Tile".split(),
        (0,),
    ),
    "Concat": _ALL,
    "Max": _ALL,
    "Min": _ALL,
    "Clip": (0, 1, 2),
    "MaxPool": (0,),
    "Pad": (0, 2),
    "Resize": (0,),
    "Where": (1, 2),
}
"""Operators whose outputs are some of their pixels, and the inputs with pixels."""

_READERS = frozenset("Equal Greater GreaterOrEqual Less LessOrEqual Cast".split())
"""Operators that give the same for a float32 of the same value, in another type."""

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def cast_first(model: ir.Model) -> int:
    """Cast the uint8 inputs to float32 at once, where all that reads their uint8 allows it.

    An input stays as it is where an operator needs uint8, and where its cast comes first already.
    Returns how many inputs were changed; in place.
    """
    changed = 0
    seen: set[ir.Value] = set()
    for value in model.graph.inputs:
        if value.dtype != ir.DataType.UINT8 or value in seen:
            continue
        subgraph = _subgraph_of(value)
        seen.update(subgraph.inputs)
        if subgraph.exact and subgraph.nodes:
            _cast(model.graph, subgraph)
            changed += len(subgraph.inputs)
    return changed


@dataclass
class _Subgraph:
    """The nodes that read the uint8 of an input, up to where another type begins.

    Attributes:
        inputs: the graph inputs whose pixels are joined.
        nodes: the operators on pixels, and casts to other types than float.
        casts: the casts to float.
        constants: the operands with pixels that are constants.
        outputs: the values that are outputs of the model.
        exact: whether float32 in place of uint8 gives the same.
    """

    inputs: list[ir.Value]
    nodes: dict[ir.Node, Sequence[int]] = field(default_factory=dict)
    casts: list[ir.Node] = field(default_factory=list)
    constants: dict[ir.Value, ir.TensorProtocol] = field(default_factory=dict)
    outputs: list[ir.Value] = field(default_factory=list)
    exact: bool = True


def _subgraph_of(start: ir.Value) -> _Subgraph:
    subgraph = _Subgraph([])
    pending, seen = [start], {start}
    while pending:
        value = pending.pop()
        maker = value.producer()
        nodes = [user for user, _ in value.uses()]
        if (tensor := ir.convenience.get_const_tensor(value)) is not None:
            subgraph.constants[value] = tensor
            continue
        if value.is_graph_input():
            subgraph.inputs.append(value)
        elif maker is None or maker.op_type not in _PIXELS:
            subgraph.exact = False  # the graph computes these pixels
        else:
            nodes.append(maker)
        if value.is_graph_output() and maker is not None:
            subgraph.outputs.append(value)
        for node in nodes:
            if node.op_type == "Shape" or node in subgraph.nodes or node in subgraph.casts:
                continue
            inside = node.graph is start.graph
            if inside and node.op_type == "Cast" and node.attributes["to"].as_int() in _FLOATS:
                subgraph.casts.append(node)
                continue
            places = _places(node)
            if not places or not inside:
                subgraph.exact = False
                continue
            subgraph.nodes[node] = places
            near = [node.inputs[place] for place in places]
            near += _made(node)
            pending += dict.fromkeys(one for one in near if one is not None and one not in seen)
            seen.update(pending)
    return subgraph


def _places(node: ir.Node) -> Sequence[int]:
    """The positions of inputs with pixels; none for an operator that needs uint8."""
    smooth = node.op_type == "Resize" and node.attributes.get_string("mode", "nearest") != "nearest"
    if node.domain or smooth:
        return ()
    known = (0, 1) if node.op_type in _READERS else _PIXELS.get(node.op_type, ())
    return [place for place in range(len(node.inputs)) if place in known]


def _made(node: ir.Node) -> list[ir.Value]:
    """The outputs of a node with pixels; the second one of MaxPool has positions."""
    outputs = node.outputs if node.op_type in _PIXELS else ()
    return [one for one in outputs if one.dtype in (ir.DataType.UINT8, None)]


def _cast(graph: ir.Graph, subgraph: _Subgraph) -> None:
    replaced: dict[ir.Value | None, ir.Value] = {}
    for value in subgraph.inputs:
        replaced[value] = _casted(graph, value, ir.DataType.FLOAT, f"{value.name}__float")
        graph.insert_before(graph[0], [replaced[value].producer()])
    for value, tensor in subgraph.constants.items():
        array = tensor.numpy().astype(np.float32)
        replaced[value] = initializer(graph, f"{value.name}__float", array)
    for node, places in subgraph.nodes.items():
        for place in places:
            if node.inputs[place] in replaced:
                node.replace_input_with(place, replaced[node.inputs[place]])
        for output in _made(node):
            output.dtype = ir.DataType.FLOAT
    for cast in subgraph.casts:
        source, result = cast.inputs[0], cast.outputs[0]
        pixels = replaced.get(source, source)
        if pixels is None:
            continue
        if cast.attributes["to"].as_int() != ir.DataType.FLOAT or result.is_graph_output():
            cast.replace_input_with(0, pixels)
            continue
        ir.convenience.replace_all_uses_with(result, pixels)
        graph.remove(cast, safe=True)
    for value in subgraph.outputs:
        name, node = str(value.name), value.producer()
        value.name = f"{name}__float"
        back = _casted(graph, value, ir.DataType.UINT8, name)
        for position, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[position] = back
        graph.insert_after(node, [back.producer()])


def _casted(graph: ir.Graph, value: ir.Value, dtype: ir.DataType, name: str) -> ir.Value:
    node = ir.node("Cast", [value], {"to": int(dtype)}, name=f"{name}_node")
    result = node.outputs[0]
    result.name, result.shape, result.type = name, value.shape, ir.TensorType(dtype)
    return result
