"""Rewrites layers of other forms as plain linear layers in the graph, before planning.

1. A recurrent operator multiplies its input by ``weight_ih`` first. That product becomes a separate
   linear layer, so an affine layer before the recurrent operator can fold into the product.
2. A bilinear operator multiplies the outer product of its inputs by its weight. That product
   becomes a linear layer.
3. The mean of rows of an embedding, none of which is empty, becomes an embedding.
4. Other products with a stored tensor become linear layers; see :mod:`.contractions`.
5. A bias that the forward computes becomes a summand; see :mod:`.addends`.

The model keeps its form: folding changes its weights and biases by name.
"""

from __future__ import annotations

from deployfold.folding.operators.products import bag_barrier

from .addends import split_computed_bias
from .contractions import Form, split_chain, write_as_layer
from .graph import Graph, Op, Value

_RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})
_CELLS = frozenset({"lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"})


def write_plainly(graph: Graph) -> None:
    """Rewrite recurrent operators and transposed weights in ``graph``, in place."""
    for op in graph.ops:
        if op.name in _RECURRENT and "params" in op.arguments and "batch_sizes" not in op.arguments:
            _split(graph, op, _first_weights(op))
        elif op.name in _CELLS:
            _split(graph, op, [(op["w_ih"], op.arguments.get("b_ih"))])
        elif op.name == "bilinear" and op["weight"].name is not None:
            _split_bilinear(graph, op)
        elif op.name == "embedding_bag" and not bag_barrier(op):
            indices, weight = op["indices"], op["weight"]
            op.arguments = {"input": indices, "weight": weight, "bias": None}
        elif op.name in ("linalg_multi_dot", "chain_matmul"):
            split_chain(graph, op)
        else:
            write_as_layer(graph, op)
            if op in graph:
                split_computed_bias(graph, op)


def _split_bilinear(graph: Graph, op: Op) -> None:
    """Replace ``op`` by the outer product of its inputs and a linear layer."""
    first, second, weight, bias = (op[key] for key in ("input1", "input2", "weight", "bias"))
    if first.constant or second.constant:
        return
    rows, left, right = weight.shape
    width = left * right
    form = Form((0, 1, 2), (rows, left, right), rows, width, (rows,), (0,), (rows,))
    arguments = {"input1": first, "input2": second}
    outer = Op(op.name, None, arguments, op.call, op.occurrence, [first, second])
    outer.outputs = [Value((*first.shape[:-1], width), first.dtype, producer=outer)]
    position = graph.remove(op)
    op.arguments = {"input": outer.output, "weight": weight, "bias": bias, "form": form}
    op.inputs = [value for value in (outer.output, weight, bias) if value is not None]
    graph.insert(outer, position)
    graph.insert(op, position)


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
    position = graph.remove(op)
    gone = {value for pair in weights for value in pair if value is not None}
    op.inputs = [value for value in op.inputs if value is not source and value not in gone]
    for weight, bias in weights:
        arguments = {"input": source, "weight": weight, "bias": bias}
        layer = Op("linear", None, arguments, op.call, op.occurrence)
        layer.inputs = [value for value in (source, weight, bias) if value is not None]
        shape = (*source.shape[:-1], weight.shape[0])
        layer.outputs = [Value(shape, source.dtype, producer=layer)]
        op.inputs.append(layer.output)
        graph.insert(layer, position)
    graph.insert(op, position)
