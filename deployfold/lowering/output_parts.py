"""Splits model outputs that join several quantities into their parts.

A detector often joins boxes (in pixels) and scores (0 to 1) in one output. One SQNR over both
reflects the boxes only, however wrong the scores are. Therefore an output of a Concat is compared
part by part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from deployfold.util.arrays import Array
from deployfold.util.quiet import quiet

_MOST = 16
"""Most parts of one output. A Concat of more inputs rarely joins separate quantities."""


@dataclass(frozen=True)
class Part:
    """A range along one axis of an output.

    Attributes:
        label: the output and the range, such as ``output0[0:4]`` for the indices 0 to 3.
        start, stop: the range of indices, ``stop`` excluded.
    """

    label: str
    axis: int
    start: int
    stop: int

    def of(self, array: Array) -> Array:
        """The slice of ``array`` that belongs to the part; ``array`` is the whole output."""
        index = [slice(None)] * array.ndim
        index[self.axis] = slice(self.start, self.stop)
        return array[tuple(index)]


def output_parts(model: ir.Model) -> Mapping[str, tuple[Part, ...]]:
    """The parts of each output that is a Concat of known sizes, by the output's name.

    Between the Concat and the output, any number of Transpose and Identity nodes is allowed, and
    the same between a Concat and a Concat along the same axis before it. Shapes are inferred in
    ``model`` where the sizes are unknown.
    """
    joins = {value: _join(value) for value in model.graph.outputs}
    if not any(joins.values()):
        return {}
    if any(_sizes(*join) is None for join in joins.values() if join is not None):
        with quiet():
            ShapeInferencePass(check_type=False, strict_mode=False)(model)
    found = {}
    for value, join in joins.items():
        sizes = None if join is None else _sizes(*join)
        if join is None or sizes is None or not 1 < len(sizes) <= _MOST:
            continue
        ends = [sum(sizes[: count + 1]) for count in range(len(sizes))]
        found[str(value.name)] = tuple(
            Part(f"{value.name}[{end - size}:{end}]", join[1], end - size, end)
            for size, end in zip(sizes, ends, strict=True)
        )
    return found


def _join(value: ir.Value) -> tuple[ir.Node, int] | None:
    """The Concat behind a value, and the axis of the value that the Concat joins along."""
    moves: list[list[int]] = []
    node = value.producer()
    while node is not None and node.op_type in ("Identity", "Transpose") and not node.domain:
        if node.op_type == "Transpose":
            order = node.attributes.get("perm")
            if order is None:
                return None
            moves.append(list(order.as_ints()))
        source = node.inputs[0]
        node = None if source is None else source.producer()
    if node is None or node.op_type != "Concat" or node.domain:
        return None
    axis = node.attributes["axis"].as_int()
    shape = node.outputs[0].shape
    if axis < 0:
        if shape is None:
            return None
        axis += len(shape)
    for order_of in reversed(moves):
        axis = order_of.index(axis)
    return node, axis


def _sizes(node: ir.Node, _: int) -> list[int] | None:
    """The sizes of a Concat's inputs along its axis; ``None`` unless all are known.

    An input that a Concat along the same axis joins counts as its own inputs.
    """
    axis = node.attributes["axis"].as_int()
    sizes: list[int] = []
    for value in node.inputs:
        if value is None:
            return None
        rank = None if value.shape is None else len(value.shape)
        inner = _join(value)
        if inner is not None and rank is not None and inner[1] == axis % rank:
            nested = _sizes(*inner)
            if nested is not None:
                sizes += nested
                continue
        size = None if value.shape is None else value.shape[axis]
        if not isinstance(size, int):
            return None
        sizes.append(size)
    return sizes
