"""Checks an ONNX for errors that TensorRT does not detect: an invalid file, infinite weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from deployfold.errors import CompileError, one_line

_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_WEIGHTED = frozenset(
    "BatchNormalization Conv ConvTranspose GRU Gemm LSTM LayerNormalization MatMul RNN".split()
)
"""Operators whose initialisers are weights, which must be finite."""


def check(path: Path) -> list[str]:
    """Do :func:`check_onnx` and :func:`check_finite`, and return the notes of the latter."""
    check_onnx(path)
    return check_finite(path)


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
    notes = []
    for name, held, readers in _constants(ir.load(path)):
        values = held.numpy() if held.dtype in _FLOATS else np.zeros(0)
        bad = values[~np.isfinite(values)]
        if not bad.size:
            continue
        kind = "NaN" if np.isnan(bad).any() else "+inf" if (bad > 0).any() else "-inf"
        if kind == "NaN" or readers & _WEIGHTED or (kind == "+inf" and values.size > 1):
            raise CompileError(
                f"The tensor {name!r} of {path.name} holds {kind} in {bad.size} of {values.size} "
                "values, from which TensorRT would build an engine without a warning.",
                hint="Check the checkpoint; a value over 65504 becomes infinite in fp16.",
            )
        notes.append(f"The constant {name!r} holds {kind}.")
    return notes


def _constants(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol, set[str]]]:
    """Yield the name and the values of every constant, and the operators that read it."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield str(value.name), value.const_value, _readers(value)
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type != ir.AttributeType.TENSOR:
                    continue
                if node.op_type == "Constant":
                    value = node.outputs[0]
                    yield str(value.name), attribute.as_tensor(), _readers(value)
                else:
                    yield str(node.name), attribute.as_tensor(), set()


def _readers(value: ir.Value) -> set[str]:
    return {node.op_type for node, _ in value.uses()}
