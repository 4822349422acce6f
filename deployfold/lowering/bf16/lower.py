"""BF16: bfloat16 tensors in the ONNX, which have float32's range and 8 bits of precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from deployfold.config.precision import Precision
from deployfold.errors import ExportError
from deployfold.exporting.onnx import check_file
from deployfold.exporting.onnx_graph import set_metadata
from deployfold.exporting.session import Array
from deployfold.exporting.storage import (
    EXTERNAL_DATA_BYTES,
    SCRATCH_THRESHOLD,
    staged,
    write_model,
)
from deployfold.lowering.emulate import emulate
from deployfold.lowering.fp16.convert import prepare
from deployfold.lowering.fp16.ranges import activation_ranges
from deployfold.lowering.lowered import (
    KeptNode,
    LoweredArtifact,
    complete_types,
    holds,
    is_lost,
    load,
    lowered_artifact,
    outputs_of,
    pass_through,
)
from deployfold.lowering.opset import raise_opset

from .convert import OPSET, convert


def lower_bf16(
    source: Path,
    path: Path,
    *,
    inputs: Sequence[Mapping[str, Array]],
    external_threshold: int = EXTERNAL_DATA_BYTES,
) -> LoweredArtifact:
    """Write the fp32 ONNX ``source`` with bfloat16 tensors; inputs and outputs stay float32.

    No value needs looking at, for bfloat16 ends where float32 does. Its accuracy is measured on
    ``inputs``, with every bfloat16 tensor rounded: ONNX Runtime has no bfloat16 kernels for a CPU
    and cannot run the file itself.

    Args:
        source: an ONNX file from :func:`deployfold.exporting.export_onnx`.
        path: written atomically, with external data beside it where the weights need it.
        inputs: arrays by input name, one mapping a run.
        external_threshold: bytes of weights above which they go to a file beside it.

    Raises:
        ExportError: there is nothing in float32, or the lowered model is not valid or not finite.
    """
    if not inputs:
        raise ExportError("Lowering to bf16 needs at least one set of inputs to measure on.")
    model = load(source)
    with staged(path) as temporary:
        if not holds(model, ir.DataType.FLOAT):
            notes = pass_through(model, temporary, Precision.BF16, external_threshold)
            return lowered_artifact(path, temporary, Precision.BF16, notes=notes)
        reference = outputs_of(source, inputs)
        model = raise_opset(model, OPSET)
        prepare(model)
        if any(value.type is None for node in model.graph for value in node.outputs):
            prepared = temporary.with_name(f"fp32-{path.name}")
            write_model(model, prepared, threshold=SCRATCH_THRESHOLD)
            complete_types(model, activation_ranges(prepared, inputs[:1])[1])
        kept = convert(model)
        nodes = tuple(KeptNode(str(node.name), node.op_type, reason) for node, reason in kept)
        set_metadata(model, {"deployfold.precision": Precision.BF16.value})
        write_model(model, temporary, threshold=external_threshold)
        check_file(temporary)
        rounded = temporary.with_name(f"rounded-{path.name}")
        emulate(model, ir.DataType.BFLOAT16)
        write_model(model, rounded, threshold=SCRATCH_THRESHOLD)
        outputs = outputs_of(rounded, inputs)
        if is_lost(reference, outputs):
            raise ExportError(
                "The bf16 model gives infinities or NaN where the fp32 model does not.",
                hint="Build it without --bf16.",
            )
        return lowered_artifact(
            path, temporary, Precision.BF16, reference=reference, outputs=outputs, kept=nodes
        )
