"""Which 16-bit tensors cost a model its accuracy.

One copy of the fp32 model can round any subset of its tensors: each passes a Where between itself
and its rounded value, steered by an extra input. Rounding errors of different tensors add up nearly
independently, so the tensors that cost most are found by halving groups: each group of tensors in
graph order is measured with this group rounded alone, and the worst group is halved until the rest
together costs less than is allowed.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from deployfold.exporting.session import open_session, run_session
from deployfold.exporting.storage import SCRATCH_THRESHOLD, write_model
from deployfold.lowering.accuracy import Measured, Measurer
from deployfold.lowering.graph import cast, is_tensor
from deployfold.lowering.request import Feed

from .convert import Plans, plan_nodes, wants_narrow
from .formats import CastFormat

RUNS = 300
"""Groups that are measured at the most; each costs one inference per sample."""

_FLAGS = "deployfold_rounds"


@dataclass(frozen=True)
class Cost:
    """A tensor, and the noise power over signal power of the worst output with it rounded alone."""

    tensor: str
    noise: float


class RoundingModel:
    """The fp32 model with tensors that are rounded on demand.

    Args:
        model: prepared; not changed.
        kept: nodes that stay in fp32 in any case.
        path: a scratch file, which must stay.
        measurer: holds the outputs of the fp32 model on ``inputs``.
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
        """The outputs with the tensors at these positions of :attr:`tensors` rounded."""
        flags = np.zeros(len(self.tensors), np.bool_)
        flags[list(rounded)] = True
        runs = [run_session(self._session, {**feed, _FLAGS: flags}) for feed in self._inputs]
        return self._measurer.compare([list(output) for output in zip(*runs, strict=True)])


def costliest(noise: Callable[[Sequence[int]], float], count: int, allowed: float) -> list[int]:
    """The positions, of ``count`` tensors, that must not be rounded.

    Args:
        noise: noise over signal with the tensors at some positions rounded, the others exact.
        allowed: what the sum over all groups that may stay rounded must not pass.
    """
    if not count:
        return []
    whole = range(count)
    heap: list[tuple[float, int, range]] = [(-noise(whole), 0, whole)]
    found: list[int] = []
    measured = 1
    while heap and _total(heap) > allowed:
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


def _total(heap: Sequence[tuple[float, int, range]]) -> float:
    return math.fsum(-entry[0] for entry in heap) if heap else 0.0


def _insert_switches(model: ir.Model, form: CastFormat, kept: Mapping[str, str]) -> list[str]:
    """Put a switch behind every tensor that would be rounded; returns their names in order."""
    graph = model.graph
    plans = plan_nodes(model, form, kept)
    rounded = {
        node.outputs[index] for node, plan in plans.items() for index in plan.outputs
    }  # stored in 16 bits, for every reader
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
    if value.const_value is not None:
        coarse = _weight(graph, value, form)
    else:
        coarse = cast(graph, cast(graph, value, form.dtype, "down"), ir.DataType.FLOAT, "up")
    index = _initializer(graph, f"{_FLAGS}_{position}", np.int64(position))
    flag = ir.node("Gather", [flags, index], name=f"{_FLAGS}_{position}_flag")
    chosen = ir.node("Where", [flag.outputs[0], coarse, value], name=f"{_FLAGS}_{position}_node")
    flag.outputs[0].name = f"{_FLAGS}_{position}_value"
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


def _weight(graph: ir.Graph, value: ir.Value, form: CastFormat) -> ir.Value:
    weight = value.const_value
    assert weight is not None
    name = f"{value.name}__coarse"

    def evaluate() -> ir.Tensor:
        return ir.tensor(form.round_weight(weight.numpy()).astype(np.float32), name=name)

    shape = ir.Shape(weight.shape)
    lazy = ir.LazyTensor(evaluate, ir.DataType.FLOAT, shape, name=name)
    coarse = ir.Value(
        name=name, const_value=lazy, shape=shape, type=ir.TensorType(ir.DataType.FLOAT)
    )
    graph.register_initializer(coarse)
    return coarse


def _initializer(graph: ir.Graph, name: str, number: np.int64) -> ir.Value:
    tensor = ir.tensor(np.asarray(number), name=name)
    value = ir.Value(
        name=name, const_value=tensor, shape=ir.Shape([]), type=ir.TensorType(ir.DataType.INT64)
    )
    graph.register_initializer(value)
    return value


def nodes_around(model: ir.Model, tensor: str, plans: Plans) -> list[ir.Node]:
    """The nodes to keep in fp32 so that a tensor is not rounded: its producer and its readers."""
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
