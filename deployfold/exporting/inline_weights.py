"""Writes an ONNX with its weights inside the file, one weight in memory at a time.

protobuf copies all weights into a message, into a buffer of up to twice their size, and into a
string. Here protobuf encodes only the rest, and each weight goes straight to the file. The bytes
are those that protobuf writes, for its encoding is simple: fields stand in the order of their
numbers, and a nested message or a bytes field has its tag and its length in front.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx_ir as ir

_GRAPH = onnx.ModelProto.GRAPH_FIELD_NUMBER
_INITIALIZER = onnx.GraphProto.INITIALIZER_FIELD_NUMBER
_RAW_DATA = onnx.TensorProto.RAW_DATA_FIELD_NUMBER


def save(model: ir.Model, path: Path) -> None:
    """Write a model to one file; its weights must be under protobuf's limit of 2 GiB together."""
    weights = {
        str(name): value.const_value
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
    }
    with _without(model, weights):
        rest = ir.to_proto(model)
    del rest.graph.initializer[:]
    before_weights, after_weights = _around(rest.graph, _INITIALIZER)
    before_graph, after_graph = _around(rest, _GRAPH)
    encoded = [_Weight(name, tensor) for name, tensor in weights.items()]
    length = len(before_weights) + sum(one.length for one in encoded) + len(after_weights)
    with path.open("wb") as file:
        file.write(before_graph + _head(_GRAPH, length) + before_weights)
        for one in encoded:
            one.write(file)
        file.write(after_weights + after_graph)


class _Weight:
    """One initialiser of the graph, as the file holds it."""

    def __init__(self, name: str, tensor: ir.TensorProtocol) -> None:
        self._tensor = None
        if isinstance(tensor, ir.StringTensor | ir.ExternalTensor):  # no bytes of its own
            tensor.name = name
            start, self._end = ir.serde.serialize_tensor(tensor).SerializeToString(), b""
            length = len(start)
        else:
            self._tensor = tensor
            empty = ir.tensor(np.zeros(0, np.uint8), name=name, doc_string=tensor.doc_string)
            empty.metadata_props.update(tensor.metadata_props)
            described = ir.serde.serialize_tensor(empty)
            described.data_type = tensor.dtype.value
            described.dims[:] = tensor.shape.numpy()
            start, self._end = _around(described, _RAW_DATA)
            start += _head(_RAW_DATA, tensor.nbytes)
            length = len(start) + tensor.nbytes + len(self._end)
        self._start = _head(_INITIALIZER, length) + start
        self.length = len(self._start) - len(start) + length

    def write(self, file: BinaryIO) -> None:
        file.write(self._start)
        if self._tensor is not None:
            self._tensor.tofile(file)
        file.write(self._end)


@contextmanager
def _without(model: ir.Model, weights: Mapping[str, ir.TensorProtocol]) -> Iterator[None]:
    """Take the weights away from a model within the block."""
    initializers = model.graph.initializers
    nothing = ir.tensor(np.zeros(0, np.float32))
    try:
        for name in weights:
            initializers[name].const_value = nothing
        yield
    finally:
        for name, tensor in weights.items():
            initializers[name].const_value = tensor


def _around(message: Any, number: int) -> tuple[bytes, bytes]:
    """The encoded fields of a message in front of the field ``number``, and those behind it."""
    parts = []
    for front in (True, False):
        part = type(message)()
        part.CopyFrom(message)
        for field in message.DESCRIPTOR.fields:
            if field.number == number or (field.number < number) != front:
                part.ClearField(field.name)
        parts.append(part.SerializeToString())
    return parts[0], parts[1]


def _head(number: int, length: int) -> bytes:
    """The tag of a field that holds ``length`` bytes, and that length."""
    return _varint(number << 3 | 2) + _varint(length)


def _varint(number: int) -> bytes:
    """A number in groups of seven bits, the lowest first."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*found, number))
