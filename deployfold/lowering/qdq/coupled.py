"""Finds groups of tensors with channels that can be scaled without changing the model's outputs.

The layers that compute the tensors of a group multiply each channel by a factor, and the layers
that read the tensors divide by the factor again. Between the two stand only sums and operators that
scale with their input.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import onnx_ir as ir

from deployfold.lowering.graph import operand

_SCALING = frozenset({"Relu", "LeakyRelu", "Clip", "MaxPool", "AveragePool", "Identity"})


@dataclass(eq=False)
class Coupled:
    """One group of tensors that must be scaled together.

    Attributes:
        writers: convolutions that compute a tensor of the group.
        readers: convolutions that read a tensor of the group, in graph order.
        clips: the upper bound of each Clip from 0 inside the group, by the name of its output.
    """

    writers: list[ir.Node] = field(default_factory=list)
    readers: list[ir.Node] = field(default_factory=list)
    clips: dict[str, float] = field(default_factory=dict)

    @property
    def tensors(self) -> list[str]:
        """The names of the tensors that the readers read, each once."""
        return list(dict.fromkeys(str(operand(reader, 0).name) for reader in self.readers))


def find_coupled(model: ir.Model, layers: Collection[str]) -> list[Coupled]:
    """Find every group of coupled tensors between convolutions.

    Only the operators of the group read its tensors. No tensor of a group is a graph output, and no
    weight of the group's convolutions has a second reader.

    Args:
        model: a prepared fp32 model.
        layers: names of the convolutions that may be changed.
    """
    found: list[Coupled] = []
    seen: set[ir.Value] = set()
    order = {node: index for index, node in enumerate(model.graph)}
    for node in order:
        if node.op_type == "Conv" and node.name in layers and operand(node, 0) not in seen:
            search = _Search(layers).from_tensor(operand(node, 0))
            seen |= search.seen
            if search.open and search.group.writers:
                search.group.readers.sort(key=order.__getitem__)
                found.append(search.group)
    return found


class _Search:
    """A walk from one tensor to all tensors that must be scaled with it."""

    def __init__(self, layers: Collection[str]) -> None:
        self._layers = layers
        self.group = Coupled()
        self.seen: set[ir.Value] = set()
        self.open = True

    def from_tensor(self, start: ir.Value) -> _Search:
        pending = [start]
        while pending:
            value = pending.pop()
            if value in self.seen:
                continue
            self.seen.add(value)
            producer = value.producer()
            if producer is None or value.is_graph_output():
                self.open = False
                continue
            pending += self._written(producer)
            for reader, index in value.uses():
                pending += self._read(reader, index)
        return self

    def _written(self, node: ir.Node) -> list[ir.Value]:
        if self._is_own_layer(node):
            self.group.writers.append(node)
            return []
        return self._through(node)

    def _read(self, node: ir.Node, index: int) -> list[ir.Value]:
        if self._is_own_layer(node) and index == 0:
            self.group.readers.append(node)
            return []
        if node.op_type in _SCALING and index != 0:
            self.open = False
        self._through(node)
        return list(node.outputs[:1])

    def _through(self, node: ir.Node) -> list[ir.Value]:
        """The inputs of ``node`` that must be scaled with its output."""
        inputs = [value for value in node.inputs if value is not None]
        if node.op_type == "Add" and all(
            value.const_value is None and value.shape == node.outputs[0].shape for value in inputs
        ):
            return inputs
        if node.op_type not in _SCALING or len(node.outputs) > 1:
            self.open = False
            return []
        if node.op_type == "Clip":
            bound = clip_bound(node)
            if bound is None:
                self.open = False
                return []
            self.group.clips[str(node.outputs[0].name)] = bound
        return inputs[:1]

    def _is_own_layer(self, node: ir.Node) -> bool:
        return (
            node.op_type == "Conv"
            and node.name in self._layers
            and all(value is None or len(value.uses()) == 1 for value in node.inputs[1:])
        )


def clip_bound(node: ir.Node) -> float | None:
    """The upper bound of a Clip from 0; ``None`` for other Clips and other operators."""
    if node.op_type != "Clip":
        return None
    bounds = [value.const_value if value is not None else None for value in node.inputs[1:3]]
    given = [value is not None for value in node.inputs[1:3]]
    if given != [True, True] or None in bounds:
        return None
    low, high = (float(bound.numpy()) for bound in bounds if bound is not None)
    return high if low == 0.0 < high else None
