"""Raises the opset of an ONNX model, because older operators lack the newer types."""

from __future__ import annotations

import onnx_ir as ir
from onnx import version_converter

from deployfold.errors import ExportError, first_line
from deployfold.util.quiet import quiet

_EXPORTED = 20
"""The oldest opset that needs no conversion.

From 20 to 22 only GroupNormalization changed its meaning, and GroupNormalization is not valid
before 21. So raising the number is enough.
"""


def raise_opset(model: ir.Model, opset: int) -> ir.Model:
    """Raise a model to ``opset``; a model with that opset or a newer one keeps its own.

    Args:
        model: possibly changed in place.
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
        converted = ir.from_proto(newer)
        assert isinstance(converted, ir.Model)
        return converted
    model.opset_imports[""] = max(present, opset)
    return model
