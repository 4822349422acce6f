"""Estimates how far each tensor of a model can grow on inputs outside the given ones.

A build sees few inputs, often random ones. A tensor that fits float16 on these inputs may overflow
on the next. Therefore each tensor gets a degree: the power of the input's scale that the tensor
follows.

1. An input has degree 1. Convolutions, sums, pools and all other linear operators keep the degree.
2. A product of activations adds the degrees up. A square doubles the degree, a root halves it, and
   a quotient takes the difference.
3. Normalised tensors have degree 1/2. Their values do not follow the input's scale, but their
   largest values still vary from input to input.
4. Tensors with bounds (Sigmoid, Tanh, Softmax, Clip between two constants) have degree 0, and so
   do constants.
5. Exp follows no power, because its argument grows with the input. An Exp that never exceeded 1 has
   negative arguments and counts as bounded. The layer after an Exp has the highest degree of
   powers.

The model's inputs may then become :data:`GROWTH` times as large as the given ones, and a tensor
must still stay below 65,504. With degree 1, values up to 8,188 are safe; with degree 2, values up
to 1,023. (NVIDIA's Model-Optimizer keeps a node in fp32 if its data exceeds 512 by default,
whatever the operator: https://github.com/NVIDIA/Model-Optimizer, ``onnx/autocast``.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

from deployfold.lowering.result import HeadRoom
from deployfold.util.onnx_values import LAYERS, inner_graphs

from .formats import FP16
from .ranges import TensorRange

GROWTH = 8.0
"""How many times as large as the given inputs the model's inputs may be.

Standardised images and spectrograms differ from each other by less than this factor, and so do
random numbers from them.
"""

EXPONENTIAL = math.inf
"""The degree of Exp."""

_NORMALISED = 0.5

_HIGHEST = 3.0
"""The highest degree. With gates in every block, an unlimited degree would double from block to
block, and no input varies so much."""

_BOUNDED = frozenset(
    "ArgMax ArgMin Cos Equal Erf GRU Greater GreaterOrEqual Hardmax HardSigmoid LSTM Less "
    "LessOrEqual Not OneHot RNN Shape Sigmoid Sign Sin Size Softmax Tanh".split()
)
_NORMALISING = frozenset(
    "GroupNormalization InstanceNormalization LayerNormalization LogSoftmax LpNormalization "
    "MeanVarianceNormalization RMSNormalization Reciprocal SkipLayerNormalization".split()
)
_PRODUCTS = frozenset({"Mul", "MatMul", "Einsum", "Gemm", "Conv", "ConvTranspose", "GridSample"})
_LOGARITHMS = frozenset({"Log", "ReduceLogSumExp", "ReduceLogSum"})


def degrees(model: ir.Model, ranges: Mapping[str, TensorRange]) -> dict[str, float]:
    """The degree of every node output of the main graph, by name; see the module."""
    found: dict[ir.Value, float] = {}
    for node in model.graph:
        degree = _degree(node, found)
        if degree != EXPONENTIAL or node.op_type in LAYERS:
            degree = min(degree, _HIGHEST)
        elif node.op_type == "Exp":
            seen = ranges.get(str(node.outputs[0].name))
            degree = 0.0 if seen is not None and seen.largest <= 1.0 else EXPONENTIAL
        for value in node.outputs:
            found[value] = degree
    return {str(value.name): degree for value, degree in found.items() if value.name}


def growth(largest: float, degree: float) -> float:
    """How many times as large the inputs may become until a tensor reaches float16's limit."""
    if largest <= 0.0 or degree == 0.0:
        return math.inf
    if degree == EXPONENTIAL:
        return math.log(FP16.largest) / math.log(largest) if largest > 1.0 else math.inf
    exponent = math.log(FP16.largest / largest) / degree
    return math.exp(min(exponent, 600.0))


def risk(name: str, found: TensorRange, degree: float) -> str | None:
    """Why a tensor that fits float16 may overflow on other inputs; ``None`` if it is safe."""
    if growth(found.largest, degree) >= GROWTH:
        return None
    if degree == EXPONENTIAL:
        what = "grows exponentially with the inputs"
    elif degree == 1.0:
        what = "grows with the inputs"
    else:
        what = f"grows with the power {degree:g} of the inputs"
    return f"reaches {found.largest:.3g} and {what}: too near to float16's 65504"


def head_room(
    ranges: Mapping[str, TensorRange], degree: Mapping[str, float], narrow: frozenset[str]
) -> HeadRoom | None:
    """The least head-room of the float16 tensors; ``None`` without such a tensor.

    Args:
        degree: the degrees by tensor name; a missing degree counts as 1.
    """
    rooms = (
        HeadRoom(name, ranges[name].largest, growth(ranges[name].largest, degree.get(name, 1.0)))
        for name in sorted(narrow)
        if name in ranges
    )
    return min(rooms, key=lambda room: room.factor, default=None)


def _degree(node: ir.Node, found: Mapping[ir.Value, float]) -> float:
    inputs = [_of(value, found) for value in node.inputs]
    highest = max(inputs, default=0.0)
    kind = node.op_type
    if inner_graphs(node):
        return max(highest, 1.0)
    if kind in _BOUNDED or (kind == "Clip" and _has_bounds(node)):
        return 0.0
    if kind in _NORMALISING:
        return _NORMALISED
    if kind == "Exp":
        return EXPONENTIAL if highest else 0.0
    if kind in _LOGARITHMS:
        return 1.0
    if kind in _PRODUCTS:
        return sum(inputs[:2]) if kind != "Einsum" else sum(inputs)
    if kind == "Div" and len(inputs) == 2:
        return _quotient(inputs[0], inputs[1])
    if kind == "Pow":
        return _power(inputs[0], node)
    if kind == "Sqrt":
        return highest / 2
    if kind == "Gather":
        return inputs[0]
    if kind == "ReduceSumSquare":
        return 2 * highest
    return highest


def _of(value: ir.Value | None, found: Mapping[ir.Value, float]) -> float:
    if value is None or value.const_value is not None:
        return 0.0
    return found.get(value, 1.0)  # 1 for a graph input or a value from an outer graph


def _quotient(above: float, below: float) -> float:
    if below == 0.0:
        return above
    if above == EXPONENTIAL and below == EXPONENTIAL:
        return _NORMALISED
    return max(above - below, _NORMALISED)


def _power(degree: float, node: ir.Node) -> float:
    exponent = node.inputs[1]
    held = exponent.const_value if exponent is not None else None
    if held is None:
        return EXPONENTIAL
    largest = float(held.numpy().max()) if held.numpy().size else 1.0
    return degree * largest if largest > 0 else _NORMALISED


def _has_bounds(node: ir.Node) -> bool:
    bounds = [value for value in node.inputs[1:3] if value is not None]
    return len(bounds) == 2 and all(value.const_value is not None for value in bounds)
