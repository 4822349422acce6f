"""The time of each layer of an artifact, under the names that an ONNX keeps of its modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployfold.errors import MeasureError
from deployfold.events import Emit, StageProgress, ignore
from deployfold.exporting.onnx_graph import MODULE_KEY
from deployfold.reporting.layers import LayerTimes, TimedLayer
from deployfold.runtimes.failures import summary
from deployfold.runtimes.layer_times import LayerProfiler
from deployfold.runtimes.protocol import Inputs, Runner
from deployfold.util.onnx_files import read_graph

CALLS = 30
_FAR = 8
"""Nodes between the output that a fused kernel is named after and the operator that it computes:
a convolution, its scale, an addition and an activation are four."""


def layer_times(
    runner: Runner | None, inputs: Inputs, *, calls: int = CALLS, emit: Emit = ignore
) -> LayerTimes | None:
    """Load a runner and profile it; ``None`` if its runtime never tells the time of a layer.

    Args:
        calls: inferences whose median counts.
    """
    if not isinstance(runner, LayerProfiler):
        return None
    emit(StageProgress("measure", "timing layers"))
    try:
        runner.load()
        profile = runner.profile(inputs, calls)
        modules = Modules.of(runner.onnx)
    except MeasureError as error:
        return LayerTimes(not_measured=summary(error))
    finally:
        runner.close()
    layers = tuple(
        TimedLayer(name=o.name, kind=o.kind, ms=o.ms, module=modules.find(o.onnx_nodes, o.kind))
        for o in profile.layers
    )
    return LayerTimes(layers=layers, calls=calls, details=profile.details)


@dataclass(frozen=True)
class Modules:
    """The nodes of an ONNX file by their names and values, to find the module of a layer.

    Attributes:
        nodes: by name.
        producers: the node that gives a value, by the value's name.
        consumers: a node that reads a value, by the value's name.
    """

    nodes: Mapping[str, Any] = field(default_factory=dict)
    producers: Mapping[str, Any] = field(default_factory=dict)
    consumers: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path | None) -> Modules:
        """Read a graph without its weights; nothing is known without a readable file."""
        if path is None or not path.is_file():
            return cls()
        try:
            nodes = list(read_graph(path).node)
        except Exception:  # the names of modules are a help, and no reason to fail
            return cls()
        return cls(
            {node.name: node for node in nodes},
            {value: node for node in nodes for value in node.output},
            {value: node for node in reversed(nodes) for value in node.input},
        )

    def find(self, names: Sequence[str], kind: str) -> str | None:
        """The module of a layer.

        A fused kernel is named after its output, which may be that of an activation. The module is
        that of the operator that does the work: the nearest node before it of the layer's kind.

        Args:
            names: of the ONNX nodes that the layer computes, or of values that it gives.
            kind: the layer's operator.
        """
        for name in names:
            node = self.nodes.get(name) or self.producers.get(name)
            if node is None:
                continue
            before = (one for one in self._before(node) if one.op_type == kind)
            module = _module(next(before, node)) or _module(node)
            if module is None and node.output:
                # A Q/DQ node or a cast belongs to the module that reads it.
                reader = self.consumers.get(node.output[0])
                module = None if reader is None else _module(reader)
            if module is not None:
                return module
        return None

    def _before(self, node: Any) -> Iterator[Any]:
        """The node and those it gets its values from, the nearest first."""
        waiting, seen = [node], 0
        while waiting and seen < _FAR:
            one = waiting.pop(0)
            seen += 1
            yield one
            waiting += [self.producers[name] for name in one.input if name in self.producers]


def _module(node: Any) -> str | None:
    return next((one.value for one in node.metadata_props if one.key == MODULE_KEY), None)
