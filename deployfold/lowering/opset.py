"""Raises the opset of an ONNX model, since older operators lack the newer types."""

from __future__ import annotations

import onnx_ir as ir
from onnx import version_converter

from deployfold.errors import ExportError, first_line
from deployfold.util.quiet import quiet

_EXPORTED = 20
"""From here to 22 only GroupNormalization changed its meaning, which is not valid before 21."""


def raise_opset(model: ir.Model, opset: int) -> ir.Model:
    """The model in ``opset``, at most 22, or as it is where it has that or a newer one.

    Raises:
        ExportError: an older model that onnx cannot convert.
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
