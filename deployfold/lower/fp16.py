"""FP16: float16 tensors in the ONNX, except where the values would not survive it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from deployfold.errors import ExportError
from deployfold.export.onnx import check_file
from deployfold.export.onnx_graph import set_metadata
from deployfold.export.quiet import first_line
from deployfold.export.session import Array, open_session, run_session
from deployfold.export.storage import EXTERNAL_DATA_BYTES, onnx_bytes, staged, write_model
from deployfold.numerics import max_abs_diff, sqnr_db
from deployfold.spec import Precision

from .fp16_convert import convert, prepare
from .fp16_emulate import emulate
from .fp16_ranges import FP16_MAX, TensorRange, activation_ranges
from .fp16_select import check_io, keep_around_loss, kept_in_order, out_of_range

_ROUNDS = 8
"""Times that nodes are added to the kept ones before lowering gives up."""

_NEAR = 4.0
"""An activation within this factor of 65,504 is worth a note: other inputs may go beyond."""


@dataclass(frozen=True)
class KeptNode:
    """A node that stays in fp32; ``reason`` is a clause such as ``its output reaches 1e+05, …``."""

    name: str
    op_type: str
    reason: str


@dataclass(frozen=True)
class LoweredArtifact:
    """An ONNX file in a lower precision.

    Attributes:
        bytes: size of the file and of its external data.
        kept_fp32: the nodes that stay in fp32, in graph order.
        sqnr_db: signal-to-quantisation-noise ratio in dB of its outputs against the fp32 model's,
            pooled over all floating-point outputs and inputs, with every float16 tensor rounded
            (see :mod:`deployfold.lower.fp16_emulate`); ``inf`` where nothing differs.
        max_abs_diff: largest absolute difference of the same outputs.
        notes: sentences for the user.
    """

    path: Path
    bytes: int
    precision: Precision
    kept_fp32: tuple[KeptNode, ...]
    sqnr_db: float
    max_abs_diff: float
    notes: tuple[str, ...] = ()


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
        source: an ONNX file from :func:`deployfold.export.export_onnx`.
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
    model = _load(source)
    with staged(path) as temporary:
        if not _holds(model, ir.DataType.FLOAT):
            notes = _pass_through(model, temporary, external_threshold)
            return _artifact(path, temporary, (), math.inf, 0.0, notes)
        reference = _outputs(source, inputs)
        prepare(model)
        prepared = temporary.with_name(f"fp32-{path.name}")
        write_model(model, prepared, threshold=external_threshold)
        ranges, dtypes = activation_ranges(prepared, inputs)
        _complete_types(model, dtypes)
        if not float_io:
            check_io(model, ranges)
        kept = out_of_range(model, ranges)
        rounded = temporary.with_name(f"rounded-{path.name}")
        for _ in range(_ROUNDS):
            lowered = convert(model, kept, float_io=float_io)
            set_metadata(lowered, {"deployfold.precision": Precision.FP16.value})
            write_model(lowered, temporary, threshold=external_threshold)
            emulate(lowered)
            write_model(lowered, rounded, threshold=external_threshold)
            outputs = _outputs(rounded, inputs)
            if not _is_lost(reference, outputs):
                break
            keep_around_loss(model, rounded, inputs, ranges, kept)
        else:
            raise ExportError(
                "The fp16 model gives infinities or NaN where the fp32 model does not.",
                hint="Build it without --fp16.",
            )
        check_file(temporary)
        _outputs(temporary, inputs[:1])  # the file itself loads and runs
        expected, actual = _floats(reference), _floats(outputs)
        nodes = tuple(
            KeptNode(str(node.name), node.op_type, reason)
            for node, reason in kept_in_order(model, kept)
        )
        decibels, difference = sqnr_db(expected, actual), max_abs_diff(expected, actual)
        return _artifact(path, temporary, nodes, decibels, difference, _notes(ranges))


def _artifact(
    path: Path,
    written: Path,
    kept: tuple[KeptNode, ...],
    decibels: float,
    difference: float,
    notes: tuple[str, ...],
) -> LoweredArtifact:
    return LoweredArtifact(
        path=path,
        bytes=onnx_bytes(written),
        precision=Precision.FP16,
        kept_fp32=kept,
        sqnr_db=decibels,
        max_abs_diff=difference,
        notes=notes,
    )


def _load(source: Path) -> ir.Model:
    try:
        model = ir.load(source)
        # The converter changes the type of a tensor that lies outside, and leaves its bytes.
        ir.external_data.load_to_model(model)
    except Exception as error:
        raise ExportError(
            f"{source.name} cannot be read as ONNX: {first_line(error)}",
            hint="Give the .onnx file that deployfold export wrote, with its .data file beside it.",
        ) from error
    return model


def _holds(model: ir.Model, dtype: ir.DataType) -> bool:
    values = [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]
    return any(value.dtype == dtype for value in values)


def _pass_through(model: ir.Model, temporary: Path, threshold: int) -> tuple[str, ...]:
    for dtype in (ir.DataType.DOUBLE, ir.DataType.BFLOAT16):
        if _holds(model, dtype):
            raise ExportError(
                f"The model computes in {dtype.name.lower()}, and fp16 is lowered from float32.",
                hint="Convert the PyTorch model with .float() before exporting it.",
            )
    set_metadata(model, {"deployfold.precision": Precision.FP16.value})
    write_model(model, temporary, threshold=threshold)
    return ("The model holds no float32 tensors: it is taken as it is.",)


def _complete_types(model: ir.Model, dtypes: Mapping[str, np.dtype[np.generic]]) -> None:
    # The converter puts casts only where it knows the type.
    for node in model.graph:
        for value in node.outputs:
            if value.type is None and value.name in dtypes:
                value.type = ir.TensorType(ir.DataType.from_numpy(dtypes[value.name]))


def _outputs(model: Path, inputs: Sequence[Mapping[str, Array]]) -> list[Array]:
    session = open_session(model, optimize=False)
    return [array for feeds in inputs for array in run_session(session, feeds)]


def _floats(arrays: Sequence[Array]) -> list[Array]:
    return [array for array in arrays if array.dtype.kind == "f"]


def _is_lost(reference: Sequence[Array], outputs: Sequence[Array]) -> bool:
    return any(
        bool((np.isfinite(expected) & ~np.isfinite(actual)).any())
        for expected, actual in zip(_floats(reference), _floats(outputs), strict=True)
    )


def _notes(ranges: Mapping[str, TensorRange]) -> tuple[str, ...]:
    inside = {name: r.largest for name, r in ranges.items() if r.largest <= FP16_MAX}
    name = max(inside, key=lambda key: inside[key], default=None)
    if name is None or inside[name] * _NEAR < FP16_MAX:
        return ()
    return (
        f"The tensor {name!r} reached {inside[name]:.3g} on the inputs given; float16 ends at "
        f"65504, so inputs with larger values may overflow.",
    )
