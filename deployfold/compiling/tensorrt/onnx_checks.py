"""Checks an ONNX for errors that TensorRT does not detect: an invalid file, infinite weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import external_data_helper, numpy_helper

from deployfold.errors import CompileError, one_line

_FLOATS = frozenset(
    {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.DOUBLE,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.BFLOAT16,
    }
)
_WEIGHTED = frozenset(
    {
        "BatchNormalization",
        "Conv",
        "ConvTranspose",
        "GRU",
        "Gemm",
        "LSTM",
        "LayerNormalization",
        "MatMul",
        "RNN",
    }
)
"""Operators whose initialisers are weights, which must be finite."""


@dataclass(frozen=True)
class _Constant:
    tensor: onnx.TensorProto
    name: str
    consumers: frozenset[str]


def check_onnx(path: Path) -> None:
    """Check a file against the ONNX standard with ``onnx.checker``.

    TensorRT parses an empty or garbage file without an error, hence this check. The checker reads
    the file by its path, because a model over 2 GB cannot be serialised in memory.

    Raises:
        CompileError: the file cannot be read, is not an ONNX, or breaks the standard.
    """
    if not path.is_file():
        raise CompileError(f"There is no ONNX at {path}.", hint="Export it first.")
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:  # ValidationError, protobuf's DecodeError, RuntimeError, OSError
        raise CompileError(
            f"{path.name} is not a valid ONNX: {one_line(error)}.", hint="Export it again."
        ) from error


def check_finite(path: Path) -> list[str]:
    """Search the constants of an ONNX for NaN and infinity, one tensor in memory at a time.

    1. NaN in any constant is an error.
    2. Infinity in a weight is an error. Weights are the initialisers of operators in ``_WEIGHTED``.
    3. ``+inf`` in a tensor of several elements is an error, because a weight overflowed.
    4. Any other infinity is allowed and noted: attention masks contain ``-inf``, and the bound of
       a clip may be infinite.

    Returns:
        One sentence for each infinity of case 4.

    Raises:
        CompileError: case 1, 2 or 3; the message names the tensor.
    """
    model = onnx.load(str(path), load_external_data=False)
    notes = []
    for constant in _constants(model.graph):
        if constant.tensor.data_type not in _FLOATS:
            continue
        found = _nonfinite(constant.tensor, path.parent)
        if found is None:
            continue
        kind, count, size = found
        weight = bool(constant.consumers & _WEIGHTED)
        if kind == "NaN" or weight or (kind == "+inf" and size > 1):
            raise CompileError(
                f"The tensor {constant.name!r} of {path.name} holds {kind} in {count} of {size} "
                "values, from which TensorRT would build an engine without a warning.",
                hint="Check the checkpoint; a value over 65504 becomes infinite in fp16.",
            )
        notes.append(f"The constant {constant.name!r} holds {kind}.")
    return notes


def _nonfinite(tensor: onnx.TensorProto, base: Path) -> tuple[str, int, int] | None:
    """The worst kind of value, the number of values that are not finite, and the total number.

    ``None`` if all values are finite.
    """
    if external_data_helper.uses_external_data(tensor):
        loaded = onnx.TensorProto()
        loaded.CopyFrom(tensor)
        external_data_helper.load_external_data_for_tensor(loaded, str(base))
        tensor = loaded
    values = numpy_helper.to_array(tensor)
    if tensor.data_type == onnx.TensorProto.BFLOAT16:
        values = values.astype(np.float32)
    finite = np.isfinite(values)
    if finite.all():
        return None
    bad = values[~finite]
    kind = "NaN" if np.isnan(bad).any() else "+inf" if (bad > 0).any() else "-inf"
    return kind, int(bad.size), int(values.size)


def _constants(graph: onnx.GraphProto) -> Iterator[_Constant]:
    consumers: dict[str, set[str]] = {}
    _collect_consumers(graph, consumers)
    yield from _constants_of(graph, consumers)


def _constants_of(graph: onnx.GraphProto, consumers: dict[str, set[str]]) -> Iterator[_Constant]:
    for tensor in graph.initializer:
        yield _Constant(tensor, tensor.name, frozenset(consumers.get(tensor.name, ())))
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                name = node.output[0] if node.op_type == "Constant" else node.name
                yield _Constant(attribute.t, name, frozenset(consumers.get(name, ())))
            for inner in _subgraphs(attribute):
                yield from _constants_of(inner, consumers)


def _collect_consumers(graph: onnx.GraphProto, consumers: dict[str, set[str]]) -> None:
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, set()).add(node.op_type)
        for attribute in node.attribute:
            for inner in _subgraphs(attribute):
                _collect_consumers(inner, consumers)


def _subgraphs(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
