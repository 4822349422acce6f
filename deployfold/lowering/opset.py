"""Raises the opset of an ONNX model, because older operators lack the newer types."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
from onnx import version_converter

from deployfold.errors import ExportError, first_line
from deployfold.exporting.storage import scratch_file
from deployfold.util.quiet import quiet

from .accuracy import Measurer
from .request import Feed

_EXPORTED = 20
"""The oldest opset that needs no conversion.

From 20 to 22 only GroupNormalization changed its meaning, and GroupNormalization is not valid
before 21. So raising the number is enough.
"""


_LEAST_DB = 60.0
"""The least SQNR of a converted model: the same function leaves 100 dB or more."""


def raise_checked(model: ir.Model, source: Path, opset: int, feeds: Sequence[Feed]) -> ir.Model:
    """Raise a model to ``opset``, as :func:`raise_opset` does, and compare its outputs.

    onnx's converter is not always right: a linear Resize of opset 10 becomes another function.

    Args:
        model: ``source`` in memory; its weights are read into memory as well.
        opset: at most 22.
        feeds: inputs; the outputs on the first are compared if onnx converted the model.

    Raises:
        ExportError: onnx cannot convert the older model, or makes another function of it.
    """
    ir.external_data.load_to_model(model)
    present = model.opset_imports.get("", opset)
    raised = raise_opset(model, opset)
    if raised is model:
        return model
    with scratch_file(raised) as path:
        measured = Measurer(source, feeds[:1], None).measure(path)
    if measured.reshaped or not measured.sqnr_db >= _LEAST_DB:
        raise ExportError(
            f"The model cannot be brought from opset {present} to {opset}: converted by onnx, it "
            f"computes another function ({measured.sqnr_db:.1f} dB).",
            hint=f"Export it with opset {_EXPORTED}, or build it with --fp16.",
        )
    return raised


def raise_opset(model: ir.Model, opset: int) -> ir.Model:
    """Raise a model to ``opset``; a model with that opset or a newer one keeps its own.

    Args:
        model: possibly changed in place. A model that onnx converted is a new object.
        opset: at most 22.

    Raises:
        ExportError: onnx cannot convert the older model.
    """
    present = model.opset_imports.get("", opset)
    if present < min(opset, _EXPORTED):
        try:
            with quiet():
                newer = version_converter.convert_version(ir.to_proto(model), opset)
        except Exception as error:
            raise ExportError(
                f"The model cannot be brought from opset {present} to {opset}: {first_line(error)}",
                hint=f"Export it with opset {_EXPORTED}.",
            ) from error
        return ir.serde.deserialize_model(newer)
    model.opset_imports[""] = max(present, opset)
    return model
