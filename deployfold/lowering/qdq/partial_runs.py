"""Runs an ONNX graph layer by layer; the caller supplies the outputs of the layers.

Layers are quantised from the inputs to the outputs, because a layer's input depends on the
quantisation of earlier layers. Each node runs once, so the whole pass costs about one inference.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from deployfold.exporting.session import run_session
from deployfold.lowering.activations import scratch_session
from deployfold.util.arrays import Array

Batch = list[Array]
"""One tensor for every sample."""


class PartialRuns:
    """Computes the tensors of one graph on several samples, starting from the known tensors.

    Args:
        feeds: arrays by input name, one mapping a sample.
        needed: names of the tensors that the caller will request, once for each request. A tensor
            that no further request needs is dropped.
    """

    def __init__(
        self, model: onnx.ModelProto, feeds: Sequence[Mapping[str, Array]], needed: Sequence[str]
    ) -> None:
        graph = model.graph
        self._opsets = list(model.opset_import)
        self._ir_version = model.ir_version
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._nodes = list(graph.node)
        self._reads = [tuple(dict.fromkeys(_reads(node))) for node in self._nodes]
        self._producer = {
            name: index for index, node in enumerate(self._nodes) for name in node.output if name
        }
        self._tensors: dict[str, Batch] = {
            name: [np.asarray(feed[name]) for feed in feeds] for name in feeds[0]
        }
        self._pending = list(needed)

    def put(self, name: str, values: Batch) -> None:
        """Set the tensor ``name`` to ``values``, one array a sample."""
        self._tensors[name] = values

    def get(self, name: str) -> Batch:
        """The tensor ``name`` on every sample; computed if it is not known yet.

        Raises:
            ExportError: ONNX Runtime cannot run the nodes that compute the tensor.
        """
        if name not in self._tensors:
            nodes, borders, weights = self._before([name], self._tensors)
            # Later requests start from these tensors, too: no node runs twice.
            made = {output for node in nodes for output in node.output if output}
            later = self._before(self._pending, self._tensors.keys() | made)[1]
            names = [name, *(one for one in later if one in made and one != name)]
            found = self._run(names, nodes, {one: self._tensors[one] for one in borders}, weights)
            for key, values in found.items():
                if key == name or isinstance(values[0], np.ndarray):  # not a sequence
                    self._tensors[key] = values
        return self._tensors[name]

    def replaced(self, name: str, values: Batch, wanted: Sequence[str]) -> list[Batch]:
        """The tensors ``wanted`` as they would be if ``name`` were ``values``.

        Nothing is kept. The tensors known so far must not depend on ``name``.
        """
        known = self._tensors | {name: values}
        nodes, borders, weights = self._before(wanted, known)
        names = [one for one in wanted if one not in known]
        given = {one: known[one] for one in borders}
        found = self._run(names, nodes, given, weights) if names else {}
        return [known[one] if one in known else found[one] for one in wanted]

    def done(self, name: str) -> None:
        """Finish one request for ``name``, and drop every tensor that no other request needs."""
        self._pending.remove(name)
        needed = set(self._before(self._pending, self._tensors)[1])
        for key in [key for key in self._tensors if key not in needed]:
            del self._tensors[key]

    def _before(
        self, names: Sequence[str], known: Collection[str]
    ) -> tuple[list[onnx.NodeProto], list[str], list[str]]:
        """The nodes that compute ``names``, and the ``known`` tensors and weights they read."""
        nodes: set[int] = set()
        borders: dict[str, None] = {}
        weights: dict[str, None] = {}
        stack = list(names)
        while stack:
            current = stack.pop()
            if current in known:
                borders[current] = None
            elif current in self._weights:
                weights[current] = None
            elif current in self._producer:
                index = self._producer[current]
                if index not in nodes:
                    nodes.add(index)
                    stack += self._reads[index]
        return [self._nodes[index] for index in sorted(nodes)], list(borders), list(weights)

    def _run(
        self,
        names: Sequence[str],
        nodes: list[onnx.NodeProto],
        given: Mapping[str, Batch],
        weights: list[str],
    ) -> dict[str, Batch]:
        """The tensors ``names``, which ``nodes`` compute from ``given``, on every sample."""
        inputs = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(values[0].dtype), None
            )
            for name, values in given.items()
        ]
        graph = helper.make_graph(
            nodes, "segment", inputs, [onnx.ValueInfoProto(name=name) for name in names],
            initializer=[self._weights[key] for key in weights],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=self._opsets, ir_version=self._ir_version)
        size = sum(len(self._weights[key].raw_data) for key in weights)
        count = len(next(iter(self._tensors.values())))
        with scratch_session(model, size) as session:
            runs = [
                run_session(session, {name: values[i] for name, values in given.items()})
                for i in range(count)
            ]
        return {name: [run[index] for run in runs] for index, name in enumerate(names)}


def _reads(node: onnx.NodeProto) -> list[str]:
    """Every name that a node reads, including names in the bodies of control flow."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                names += _reads(inner)
    return names
