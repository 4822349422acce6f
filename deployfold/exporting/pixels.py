"""Moving the cast of uint8 pictures in front of what only moves their pixels.

TensorRT takes a uint8 input, and the first operator that reads it must be a cast: it has no kernels
that permute, slice or flip uint8. float32 holds every uint8 exactly, so the cast may come first.
"""

from __future__ import annotations

import onnx_ir as ir

_MOVES = frozenset(
    "Transpose Reshape Slice Gather GatherND GatherElements Squeeze Unsqueeze Flatten Identity "
    "Split Concat DepthToSpace SpaceToDepth Expand Tile".split()
)
"""Operators that move elements of their data input and compute none."""

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def cast_first(model: ir.Model) -> int:
    """Cast each uint8 input to float32 at once, where all that is done before its casts is moving.

    An input stays as it is where any path from it ends in something else than a cast to float, and
    where its cast comes first already. Returns how many inputs were changed; in place.
    """
    changed = 0
    for value in model.graph.inputs:
        if value.dtype != ir.DataType.UINT8:
            continue
        moves, casts = _path(value)
        if moves and casts:
            _move(model.graph, value, moves, casts)
            changed += 1
    return changed


def _path(value: ir.Value) -> tuple[list[ir.Node], list[ir.Node]]:
    """The moving nodes behind an input, and the casts they end in; none where a path ends else."""
    moves: dict[ir.Node, None] = {}
    casts: dict[ir.Node, None] = {}
    pending = [value]
    while pending:
        one = pending.pop()
        if one.is_graph_output():
            return [], []
        for node, position in one.uses():
            if node.op_type == "Cast" and node.attributes["to"].as_int() in _FLOATS:
                casts[node] = None
            elif node.op_type == "Shape":
                continue  # the same of any type
            elif node.op_type in _MOVES and not node.domain and _moves(node, position):
                if node not in moves:
                    moves[node] = None
                    pending += node.outputs
            else:
                return [], []
    data = {value, *(out for node in moves for out in node.outputs)}
    if any(_joins_others(node, data) for node in moves):
        return [], []
    return list(moves), list(casts)


def _moves(node: ir.Node, position: int) -> bool:
    return position == 0 or node.op_type == "Concat"


def _joins_others(node: ir.Node, data: set[ir.Value]) -> bool:
    return node.op_type == "Concat" and not set(node.inputs) <= data


def _move(graph: ir.Graph, value: ir.Value, moves: list[ir.Node], casts: list[ir.Node]) -> None:
    first = ir.node("Cast", [value], attributes={"to": int(ir.DataType.FLOAT)},
                    name=f"{value.name}__float_node")  # fmt: skip
    pixels = first.outputs[0]
    pixels.name, pixels.shape = f"{value.name}__float", value.shape
    pixels.type = ir.TensorType(ir.DataType.FLOAT)
    for node, position in tuple(value.uses()):
        if node is not first and node.op_type != "Shape":
            node.replace_input_with(position, pixels)
    graph.insert_before(graph[0], first)
    for node in moves:
        for output in node.outputs:
            output.dtype = ir.DataType.FLOAT
    for cast in casts:
        if cast.attributes["to"].as_int() != ir.DataType.FLOAT:
            continue  # to float16, which float32 is cast to as well
        source, result = cast.inputs[0], cast.outputs[0]
        if source is None or result.is_graph_output():
            continue
        ir.convenience.replace_all_uses_with(result, source)
        graph.remove(cast, safe=True)
