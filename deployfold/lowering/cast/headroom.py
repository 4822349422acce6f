"""How far each tensor of a model can grow on inputs that were not seen.

A build sees few inputs, often random ones. A tensor that fits float16 on these may leave it on the
next. So each tensor gets a degree, the power of the input's scale that it follows:

1. An input has degree 1. Convolutions, sums, pools and whatever else is linear keep the degree.
2. A product of activations adds the degrees up; a square doubles the degree, a root halves it, and
   a quotient takes the difference.
3. Normalised tensors have degree 1/2. They do not follow the input's scale, but from input to input
   their largest values still move.
4. Tensors with bounds (Sigmoid, Tanh, Softmax, Clip between two constants) have degree 0, and so
   do constants.
5. Exp follows no power: its argument is what grows. An Exp that was never above 1 is one of
   negative arguments, and bounded. The layer after an Exp has the highest degree of powers.

The model's inputs may then be :data:`GROWTH` times as large as those that were seen, and a tensor
must stay below 65,504: with degree 1 up to 8,188 is safe, with degree 2 up to 1,023. (NVIDIA's
Model-Optimizer keeps nodes in fp32 whose data passes 512 by default, whatever they compute:
https://github.com/NVIDIA/Model-Optimizer, ``onnx/autocast``.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

from deployfold.lowering.graph import has_subgraph
from deployfold.lowering.result import HeadRoom

from .formats import FP16
from .ranges import TensorRange

GROWTH = 8.0
"""How many times as large the model's inputs may be. Standardised images and spectrograms differ by
less than that from each other, and random numbers from them."""

EXPONENTIAL = math.inf
"""The degree of Exp."""

_NORMALISED = 0.5

_HIGHEST = 3.0
"""The highest degree: with gates in every block it would double from block to block, and no input
varies so much."""

_BOUNDED = frozenset(
    "ArgMax ArgMin Cos Equal Erf GRU Greater GreaterOrEqual Hardmax HardSigmoid LSTM Less "
    "LessOrEqual Not OneHot RNN Shape Sigmoid Sign Sin Size Softmax Tanh".split()
)
_NORMALISING = frozenset(
    "GroupNormalization InstanceNormalization LayerNormalization LogSoftmax LpNormalization "
    "MeanVarianceNormalization RMSNormalization Reciprocal SkipLayerNormalization".split()
)
_PRODUCTS = frozenset({"Mul", "MatMul", "Einsum", "Gemm", "Conv", "ConvTranspose", "GridSample"})
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_LOGARITHMS = frozenset({"Log", "ReduceLogSumExp", "ReduceLogSum"})


def degrees(model: ir.Model, ranges: Mapping[str, TensorRange]) -> dict[str, float]:
    """The degree of every tensor of the main graph that a node computes, by name."""
    found: dict[ir.Value, float] = {}
    for node in model.graph:
        degree = _degree(node, found)
        if degree != EXPONENTIAL or node.op_type in _LAYERS:
            degree = min(degree, _HIGHEST)
        elif node.op_type == "Exp":
            seen = ranges.get(str(node.outputs[0].name))
            degree = 0.0 if seen is not None and seen.largest <= 1.0 else EXPONENTIAL
        for value in node.outputs:
            found[value] = degree
    return {str(value.name): degree for value, degree in found.items() if value.name}


def growth(largest: float, degree: float) -> float:
    """How many times as large the inputs may be until a tensor reaches float16's limit."""
    if largest <= 0.0 or degree == 0.0:
        return math.inf
    if degree == EXPONENTIAL:
        return math.log(FP16.largest) / math.log(largest) if largest > 1.0 else math.inf
    exponent = math.log(FP16.largest / largest) / degree
    return math.exp(min(exponent, 600.0))


def risk(name: str, found: TensorRange, degree: float) -> str | None:
    """Why a tensor that fits float16 now may not on other inputs; ``None`` where it will."""
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
    """That of the tensor with the least, among those that are float16."""
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
    if has_subgraph(node):
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
    return found.get(value, 1.0)  # an input, or a value from outside


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
