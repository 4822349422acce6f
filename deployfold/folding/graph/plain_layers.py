"""Rewrites layers of other forms as plain linear layers in the graph, before planning.

1. A recurrent operator multiplies its input by ``weight_ih`` first. That product becomes a separate
   linear layer, so an affine layer before the recurrent operator can fold into the product.
2. ``linear(x, w.t())`` reads a stored matrix transposed. The layer then reads the matrix itself.

The model keeps its form: folding changes its weights and biases by name.
"""

from __future__ import annotations

from .graph import Graph, Op, Value

_RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})
_CELLS = frozenset({"lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"})
_TURNS = frozenset({"t", "transpose", "permute", "numpy_T", "swapaxes", "matrix_H"})


def write_plainly(graph: Graph) -> None:
    """Rewrite recurrent operators and transposed weights in ``graph``, in place."""
    for op in graph.ops:
        if op.name in _RECURRENT and "params" in op.arguments and "batch_sizes" not in op.arguments:
            _split(graph, op, _first_weights(op))
        elif op.name in _CELLS:
            _split(graph, op, [(op["w_ih"], op.arguments.get("b_ih"))])
        elif op.name == "linear":
            _turn(graph, op)


def _first_weights(op: Op) -> list[tuple[Value, Value | None]]:
    """The weight and bias of the product with the input: one pair for each direction."""
    params, biased, directions = op["params"], op["has_biases"], 2 if op["bidirectional"] else 1
    each = len(params) // (op["num_layers"] * directions)
    return [
        (params[at], params[at + 2] if biased else None) for at in range(0, each * directions, each)
    ]


def _split(graph: Graph, op: Op, weights: list[tuple[Value, Value | None]]) -> None:
    """Insert a linear layer before ``op`` for each pair of ``weights``."""
    source: Value = op["input"]
    if source.constant or any(weight.name is None for weight, _ in weights):
        return
    position = graph.operators.pop(op)
    gone = {value for pair in weights for value in pair if value is not None}
    for value in (source, *gone):
        value.drop_reader(op)
    op.inputs = [value for value in op.inputs if value is not source and value not in gone]
    for weight, bias in weights:
        arguments = {"input": source, "weight": weight, "bias": bias}
        layer = Op("linear", None, arguments, op.call, op.occurrence)
        layer.inputs = [value for value in (source, weight, bias) if value is not None]
        shape = (*source.shape[:-1], weight.shape[0])
        layer.outputs = [Value(shape, source.dtype, producer=layer, consumers=[op])]
        for value in layer.inputs:
            value.consumers.append(layer)
        op.inputs.append(layer.output)
        graph.operators[layer] = position
    graph.operators[op] = position  # equal positions keep the order of entry


def _turn(graph: Graph, op: Op) -> None:
    """Make ``op`` read the stored matrix itself if its weight is a transpose of that matrix."""
    weight: Value = op["weight"]
    turn = weight.producer
    if weight.name is not None or turn is None or turn.name not in _TURNS:
        return
    if len(turn.inputs) != 1 or len(weight.shape) != 2 or weight.shape[0] == weight.shape[1] == 1:
        return
    stored = turn.inputs[0]
    axes = [turn.arguments.get(key) for key in ("dim0", "dim1", "dims", "axis0", "axis1")]
    if stored.name is None or sorted(_axes(axes)) not in ([], [0, 1]):
        return
    op.replace_input(weight, stored)
    op.arguments["turned"] = True
    stored.consumers.append(op)
    weight.drop_reader(op)
    if not weight.consumers:
        stored.drop_reader(turn)
        graph.remove(turn)


def _axes(given: list[object]) -> list[int]:
    found: list[int] = []
    for item in given:
        found += [axis % 2 for axis in (item if isinstance(item, (list, tuple)) else [item])
                  if isinstance(axis, int)]  # fmt: skip
    return found
