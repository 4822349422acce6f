"""Selects the nodes of a prepared fp32 graph that stay in fp32 because of their values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnxruntime.transformers.float16 import ALWAYS_FLOAT_INPUTS

from deployfold.errors import ExportError
from deployfold.lowering.activations import iterate_activations, node_outputs
from deployfold.lowering.request import Feed
from deployfold.util.onnx_values import inner_graphs

from .formats import FP16
from .headroom import degrees, risk
from .ranges import TensorRange, weight_ranges


def out_of_range(model: ir.Model, ranges: Mapping[str, TensorRange]) -> dict[str, str]:
    """The nodes that float16 would change beyond rounding, as reasons by node name.

    1. A node with a weight that float16 cannot hold.
    2. A node with an output or an input that float16 cannot hold, or may not hold on other inputs
       (see :mod:`.headroom`). The tensor between two such nodes is then never float16, so a
       normalisation written out in single operators becomes one island in fp32.
    3. A node that reads the output of a node with a weight too small for float16, such as the sqrt
       after an epsilon of 1e-12. The sum is as small as the epsilon for an input of zero, and such
       an input may come even if no given input has it.
    """
    weights = weight_ranges(model)
    degree = degrees(model, ranges)
    problems = {name: found.problem for name, found in ranges.items() if found.problem}
    for name, found in ranges.items():
        danger = risk(name, found, degree.get(name, 1.0))
        # Graph inputs have no degree: their values are the caller's, and inputs out of range are
        # in ``problems`` already.
        if name in degree and danger is not None:
            problems.setdefault(name, danger)
    kept: dict[str, str] = {}
    for node in model.graph:
        if inner_graphs(node):
            continue  # the converter keeps control flow whole
        bad = _bad_weights(node, weights)
        if bad:
            kept[str(node.name)] = f"its weight {bad[0]!r} {weights[bad[0]].problem}"
            if any(weights[name].largest <= FP16.largest for name in bad):
                for output in node.outputs:
                    problems.setdefault(str(output.name), "may be too small for float16")
        else:
            for role, value in _values(node):
                if value.name in problems:
                    kept[str(node.name)] = f"its {role} {value.name!r} {problems[value.name]}"
                    break
    return kept


def around_loss(
    model: ir.Model,
    rounded: Path,
    inputs: Sequence[Feed],
    finite: Mapping[str, bool],
    kept: Mapping[str, str],
    title: str,
) -> dict[str, str]:
    """The nodes to keep around the first tensor in which a rounded model has infinities or NaN.

    These nodes are the tensor's producer and its readers. If all of them are kept already, the
    function takes the nearest earlier nodes instead, because their rounding may cause the loss.

    Args:
        finite: whether the fp32 tensor is finite on all inputs, by name.

    Raises:
        ExportError: ONNX Runtime cannot run the rounded model.
    """
    order = [str(value.name) for value in node_outputs(model)]
    lost = {
        activation.name
        for activation in iterate_activations(rounded, inputs, names=order)
        if activation.array.dtype.kind == "f"
        and finite.get(activation.name, False)
        and not np.isfinite(activation.array).all()
    }
    for value in node_outputs(model):
        if value.name in lost:
            reason = f"{title} gives infinities or NaN in {value.name!r}"
            return {str(node.name): reason for node in _around(value, kept)}
    return {}


def _around(value: ir.Value, kept: Mapping[str, str]) -> list[ir.Node]:
    """The nodes next to ``value`` that are not kept; without any, the nearest earlier nodes."""
    level = [node for node, _ in value.uses() if node.graph is value.graph]
    level += [value.producer()] if value.producer() is not None else []
    seen = set(level)
    while level:
        new = [node for node in level if node.name not in kept]
        if new:
            return new
        level = [node for node in _producers(level) if node not in seen]
        seen.update(level)
    return []


def _producers(nodes: Sequence[ir.Node]) -> list[ir.Node]:
    found = (value.producer() for node in nodes for value in node.inputs if value is not None)
    return list(dict.fromkeys(node for node in found if node is not None))


def check_io(model: ir.Model, ranges: Mapping[str, TensorRange]) -> None:
    """Check that float16 graph inputs and outputs can hold the observed values.

    Raises:
        ExportError: an input or output is beyond 65,504.
    """
    for role, values in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        for value in values:
            seen = ranges.get(str(value.name))
            if seen is not None and seen.largest > FP16.largest:
                raise ExportError(
                    f"The {role} {value.name!r} {seen.problem}.",
                    hint="Keep float32 inputs and outputs: leave out --io fp16.",
                )


def _bad_weights(node: ir.Node, weights: Mapping[str, TensorRange]) -> list[str]:
    always_float = ALWAYS_FLOAT_INPUTS.get(node.op_type, [])
    return [
        str(value.name)
        for index, value in enumerate(node.inputs)
        if value is not None
        and value.name in weights
        and index not in always_float
        and weights[value.name].problem is not None
    ]


def _values(node: ir.Node) -> Iterator[tuple[str, ir.Value]]:
    for value in node.outputs:
        yield "output", value
    for argument in node.inputs:
        if argument is not None:
            yield "input", argument
