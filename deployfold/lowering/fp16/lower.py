"""FP16: float16 tensors in the ONNX, except where the values would not survive it."""

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
from deployfold.util.memory import release

from .convert import convert, prepare
from .ranges import FP16_MAX, TensorRange, activation_ranges
from .select import check_io, keep_around_loss, kept_in_order, out_of_range

_ROUNDS = 8
"""Times that nodes are added to the kept ones before lowering gives up."""

_NEAR = 4.0
"""An activation within this factor of 65,504 is worth a note: other inputs may go beyond."""


def lower_fp16(
    source: Path,
    path: Path,
    *,
    inputs: Sequence[Mapping[str, Array]],
    float_io: bool = True,
    external_threshold: int = EXTERNAL_DATA_BYTES,
) -> LoweredArtifact:
    """Write the fp32 ONNX ``source`` with float16 tensors.

    The fp32 model is run on ``inputs`` with all its tensors laid open. A node stays in fp32 when
    its weights, its output or what it reads are beyond 65,504 or so small that float16 rounds them
    away; the lowered model is then run on the same inputs, rounded as float16 hardware does, and
    more nodes are kept until no infinity or NaN is left that fp32 did not have.

    Args:
        source: an ONNX file from :func:`deployfold.exporting.export_onnx`.
        path: written atomically, with external data beside it where the weights need it.
        inputs: arrays by input name, one mapping a run; real samples show real ranges.
        float_io: keep float32 inputs and outputs; ``False`` makes them float16.
        external_threshold: bytes of weights above which they go to a file beside it.

    Raises:
        ExportError: there is nothing in float32, a float16 input or output cannot hold its values,
            or the lowered model is not valid or not finite.
    """
    if not inputs:
        raise ExportError("Lowering to fp16 needs at least one set of inputs to see the ranges.")
    model = load(source, weights=False)
    with staged(path) as temporary:
        if not holds(model, ir.DataType.FLOAT):
            notes = pass_through(model, temporary, Precision.FP16, external_threshold)
            return lowered_artifact(path, temporary, Precision.FP16, notes=notes)
        reference = outputs_of(source, inputs)
        prepare(model)
        prepared = temporary.with_name(f"fp32-{path.name}")
        write_model(model, prepared, threshold=SCRATCH_THRESHOLD)
        ranges, dtypes = activation_ranges(prepared, inputs)
        complete_types(model, dtypes)
        if not float_io:
            check_io(model, ranges)
        kept = out_of_range(model, ranges)
        rounded = temporary.with_name(f"rounded-{path.name}")
        for _ in range(_ROUNDS):
            lowered = convert(model, kept, float_io=float_io)
            set_metadata(lowered, {"deployfold.precision": Precision.FP16.value})
            write_model(lowered, temporary, threshold=external_threshold)
            emulate(lowered, ir.DataType.FLOAT16)
            write_model(lowered, rounded, threshold=SCRATCH_THRESHOLD)
            del lowered
            release()  # before ONNX Runtime holds the same weights
            outputs = outputs_of(rounded, inputs)
            if not is_lost(reference, outputs):
                break
            keep_around_loss(model, rounded, inputs, ranges, kept)
        else:
            raise ExportError(
                "The fp16 model gives infinities or NaN where the fp32 model does not.",
                hint="Build it without --fp16.",
            )
        check_file(temporary)
        outputs_of(temporary, inputs[:1])  # the file itself loads and runs
        nodes = tuple(
            KeptNode(str(node.name), node.op_type, reason)
            for node, reason in kept_in_order(model, kept)
        )
        return lowered_artifact(
            path, temporary, Precision.FP16, reference=reference, outputs=outputs, kept=nodes,
            notes=_notes(ranges),
        )  # fmt: skip


def _notes(ranges: Mapping[str, TensorRange]) -> tuple[str, ...]:
    inside = {name: r.largest for name, r in ranges.items() if r.largest <= FP16_MAX}
    name = max(inside, key=lambda key: inside[key], default=None)
    if name is None or inside[name] * _NEAR < FP16_MAX:
        return ()
    return (
        f"The tensor {name!r} reached {inside[name]:.3g} on the inputs given; float16 ends at "
        f"65504, so inputs with larger values may overflow.",
    )
