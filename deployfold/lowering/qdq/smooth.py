"""Scales the channels of activations in front of matrix products: SmoothQuant (Xiao et al., 2022).

The residual stream of a transformer has a few channels that are many times as large as the others,
and one int8 scale serves all channels. Each channel is multiplied by a factor, and the rows of the
weights that read the channel are divided by the factor. The factors are those of :mod:`.equalise`.

If a LayerNormalization computes the tensor for these products alone, as in a transformer that
normalises first, its weight and bias take the factors. Otherwise a Mul applies them, which TensorRT
computes with the operators around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from deployfold.lowering.graph import operand
from deployfold.util.arrays import Array
from deployfold.util.onnx_values import initializer

from .equalise import EQUALISED_KEY, Channels, Reader, best_factors, measure
from .layers import Layer, numbers, replace_numbers

_WORTH = 0.8
"""Factors are applied where they leave at most this share of the predicted noise."""


def smooth(model: ir.Model, layers: Sequence[Layer], feeds: Sequence[Mapping[str, Array]]) -> int:
    """Scale the channels of tokens in front of matrix products, without changing the function.

    Args:
        model: a prepared float32 model, changed in place.
        layers: the layers that may be changed; see :func:`~.layers.find_layers`.

    Returns:
        The number of scaled tensors.

    Raises:
        ExportError: ONNX Runtime cannot run the model.
    """
    groups = dict(_groups(model, layers))
    found = measure(model, [str(value.name) for value in groups], feeds, tokens=True)
    done = 0
    for value, nodes in groups.items():
        channels = found.get(str(value.name))
        if channels is None:
            continue
        readers = [_reader(node, channels) for node in nodes]
        factors = best_factors(readers, np.full_like(channels.top, np.inf))
        before, after = (
            sum(reader.noise(each) for reader in readers)
            for each in (np.ones_like(factors), factors)
        )
        if after > _WORTH * before:
            continue
        for node in nodes:
            weight = operand(node, 1)
            replace_numbers(weight, numbers(weight) / factors[:, None])
        _scale(model.graph, value, nodes, factors)
        done += 1
    return done


def _groups(model: ir.Model, layers: Sequence[Layer]) -> Iterator[tuple[ir.Value, list[ir.Node]]]:
    """The tensors that matrix products read, and the products."""
    names = {layer.name for layer in layers}
    skips = {layer.skip.source for layer in layers if layer.skip is not None}
    products: dict[ir.Value, list[ir.Node]] = {}
    for node in model.graph:
        if node.op_type == "MatMul" and node.name in names:
            products.setdefault(operand(node, 0), []).append(node)
    for value, nodes in products.items():
        own = value.producer() is not None and not value.is_graph_output()
        alone = all(len(operand(node, 1).uses()) == 1 for node in nodes)
        if own and alone and value.name not in skips:
            yield value, nodes


def _reader(node: ir.Node, channels: Channels) -> Reader:
    """The statistics of a matrix product; its weight is (inputs, outputs)."""
    weight = numbers(operand(node, 1))
    return Reader(
        channels, np.abs(weight.T)[None].astype(np.float32), np.square(weight).sum(1), taps=1
    )


def _scale(graph: ir.Graph, value: ir.Value, nodes: Sequence[ir.Node], factors: Array) -> None:
    """Multiply what ``nodes`` read; the product has the name that they know."""
    maker = value.producer()
    assert maker is not None
    affine = [one for one in maker.inputs[1:] if one is not None]
    own = all(one.is_initializer() and len(one.uses()) == 1 for one in affine)
    if maker.op_type == "LayerNormalization" and own and len(value.uses()) == len(nodes):
        for one in affine:
            replace_numbers(one, numbers(one) * factors)
        maker.metadata_props[EQUALISED_KEY] = "channels"
        return
    name = str(value.name)
    value.name = f"{name}.unscaled"
    factor = initializer(graph, f"{name}.factors", factors.astype(np.float32))
    scaled = ir.node("Mul", [value, factor], num_outputs=1, name=f"{name}.smooth")
    scaled.metadata_props[EQUALISED_KEY] = "channels"
    output = scaled.outputs[0]
    output.name, output.type, output.shape = name, value.type, value.shape
    graph.insert_after(maker, scaled)
    for node in nodes:
        node.replace_input_with(0, output)
