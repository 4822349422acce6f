"""Finds the 16-bit tensors that cost a model most of its accuracy.

One copy of the fp32 model can round any subset of its tensors: an If behind each tensor returns the
tensor or its rounded value, and an extra input steers the choice. (A Where computes both, for all
weights too: 0.55 s a run instead of 0.04 s for a DBNet of 25 million parameters.) Rounding errors
of different tensors add up nearly independently, so halving groups finds the costliest tensors.
Each group holds tensors that follow one another in the graph, and is measured with only this group
rounded. The search halves the worst group until the remaining groups together cost less than
allowed.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from deployfold.exporting.session import open_session, run_session
from deployfold.exporting.storage import SCRATCH_THRESHOLD, write_model
from deployfold.lowering.accuracy import Measured, Measurer
from deployfold.lowering.graph import is_tensor, lazy, weight_of
from deployfold.lowering.request import Feed
from deployfold.util.onnx_values import initializer

from .convert import Plans, plan_nodes, wants_narrow
from .formats import CastFormat

RUNS = 300
"""Most groups to measure; each group costs one inference per sample."""

_FLAGS = "deployfold_rounds"


class RoundingModel:
    """A copy of the fp32 model that rounds any subset of its tensors on demand.

    Args:
        path: a scratch file, which must exist as long as the object.
        measurer: a measurer with the outputs of the fp32 model on ``inputs``.
    """

    def __init__(
        self,
        model: ir.Model,
        form: CastFormat,
        kept: Mapping[str, str],
        inputs: Sequence[Feed],
        path: Path,
        measurer: Measurer,
    ) -> None:
        copy = model.clone()
        self.tensors = _insert_switches(copy, form, kept)
        self._inputs, self._measurer = inputs, measurer
        if self.tensors:
            write_model(copy, path, threshold=SCRATCH_THRESHOLD)
            self._session = open_session(path, optimize=False)

    def measure(self, rounded: Sequence[int]) -> Measured:
        """The accuracy with only the tensors at these positions of :attr:`tensors` rounded."""
        flags = np.zeros(len(self.tensors), np.bool_)
        flags[list(rounded)] = True
        runs = [run_session(self._session, {**feed, _FLAGS: flags}) for feed in self._inputs]
        return self._measurer.compare([list(output) for output in zip(*runs, strict=True)])


def costliest(noise: Callable[[Sequence[int]], float], count: int, allowed: float) -> list[int]:
    """The positions of the tensors that must not be rounded, in ascending order.

    Args:
        noise: a function from positions to noise power over signal power, with only the tensors at
            these positions rounded.
        allowed: the largest noise over signal, summed over the groups that stay rounded.
    """
    if not count:
        return []
    whole = range(count)
    heap: list[tuple[float, int, range]] = [(-noise(whole), 0, whole)]
    found: list[int] = []
    measured = 1
    while heap and math.fsum(-cost for cost, *_ in heap) > allowed:
        worst, _, group = heapq.heappop(heap)
        if worst == 0.0:
            break
        if len(group) == 1 or measured >= RUNS:
            found.extend(group)
            continue
        middle = len(group) // 2
        for half in (group[:middle], group[middle:]):
            measured += 1
            heapq.heappush(heap, (-noise(half), half.start, half))
    return sorted(found)


def _insert_switches(model: ir.Model, form: CastFormat, kept: Mapping[str, str]) -> list[str]:
    """Put a switch behind every tensor that would be rounded; returns their names in order."""
    graph = model.graph
    plans = plan_nodes(model, form, kept)
    rounded = {
        node.outputs[index] for node, plan in plans.items() for index in plan.outputs
    }  # these tensors are stored in 16 bits for every reader
    values = [*graph.inputs, *graph.initializers.values()]
    values += [value for node in graph for value in node.outputs]
    flags = ir.Value(name=_FLAGS, shape=ir.Shape([None]), type=ir.TensorType(ir.DataType.BOOL))
    names: list[str] = []
    for value in values:
        if not value.name or not is_tensor(value, ir.DataType.FLOAT):
            continue
        uses = [
            (node, index)
            for node, index in value.uses()
            if value in rounded or wants_narrow(plans, node, index)
        ]
        if uses or (value in rounded and value.is_graph_output()):
            _switch(graph, value, uses, flags, len(names), form, everywhere=value in rounded)
            names.append(str(value.name))
    graph.inputs.append(flags)
    graph.sort()
    return names


def _switch(
    graph: ir.Graph,
    value: ir.Value,
    uses: Sequence[tuple[ir.Node, int]],
    flags: ir.Value,
    position: int,
    form: CastFormat,
    *,
    everywhere: bool,
) -> None:
    index = initializer(graph, f"{_FLAGS}_{position}", np.int64(position))
    flag = ir.node("Gather", [flags, index], name=f"{_FLAGS}_{position}_flag")
    flag.outputs[0].name = f"{_FLAGS}_{position}_value"
    branches = {
        "then_branch": _rounding(graph, value, position, form),
        "else_branch": _branch([ir.node("Identity", [value])], f"{_FLAGS}_{position}_exact"),
    }
    chosen = ir.node("If", flag.outputs, branches, name=f"{_FLAGS}_{position}_node")
    result = chosen.outputs[0]
    result.name = f"{value.name}__rounded"
    result.type, result.shape = ir.TensorType(ir.DataType.FLOAT), value.shape
    graph.extend([flag, chosen])
    for node, at in uses:
        node.replace_input_with(at, result)
    if everywhere and value.is_graph_output():
        for at, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[at] = result


def _rounding(graph: ir.Graph, value: ir.Value, position: int, form: CastFormat) -> ir.Graph:
    """The branch that rounds a tensor; the rounded values of a weight are an initialiser."""
    if value.const_value is not None:
        nodes = [ir.node("Identity", [_weight(graph, value, form)])]
    else:
        down = ir.node("Cast", [value], {"to": int(form.dtype)})
        down.outputs[0].name = f"{_FLAGS}_{position}_down"
        nodes = [down, ir.node("Cast", down.outputs, {"to": int(ir.DataType.FLOAT)})]
    return _branch(nodes, f"{_FLAGS}_{position}_coarse")


def _branch(nodes: Sequence[ir.Node], name: str) -> ir.Graph:
    """A branch of an If, with the float32 output of the last node."""
    output = nodes[-1].outputs[0]
    output.name, output.type = name, ir.TensorType(ir.DataType.FLOAT)
    for node in nodes:
        node.name = f"{node.outputs[0].name}_node"
    return ir.Graph([], [output], nodes=nodes, name=f"{name}_branch")


def _weight(graph: ir.Graph, value: ir.Value, form: CastFormat) -> ir.Value:
    weight, single = weight_of(value), ir.DataType.FLOAT
    name = f"{value.name}__coarse"
    rounded = lazy(weight, single, name, lambda one: form.round_weight(one).astype(np.float32))
    coarse = ir.Value(
        name=name, const_value=rounded, shape=rounded.shape, type=ir.TensorType(single)
    )
    graph.register_initializer(coarse)
    return coarse


def nodes_around(model: ir.Model, tensor: str, plans: Plans) -> list[ir.Node]:
    """The producer and the readers of a tensor: without rounding, these nodes stay in fp32."""
    found: list[ir.Node] = []
    for node in plans:
        reads = any(
            value is not None and value.name == tensor and wants_narrow(plans, node, index)
            for index, value in enumerate(node.inputs)
        )
        makes = any(
            value.name == tensor and index in plans[node].outputs
            for index, value in enumerate(node.outputs)
        )
        if reads or makes:
            found.append(node)
    return found
