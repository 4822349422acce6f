"""Rewrites an fp32 ONNX file with float16 or bfloat16 tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from deployfold.config.precision import Precision
from deployfold.errors import AccuracyError, ExportError, first_few
from deployfold.exporting.session import open_session, run_session
from deployfold.exporting.storage import staged
from deployfold.lowering.accuracy import Measurer
from deployfold.lowering.graph import holds, prepare, write
from deployfold.lowering.keep import asked_for
from deployfold.lowering.opset import raise_checked
from deployfold.lowering.progress import Progress, silent
from deployfold.lowering.request import LoweringData, LoweringOptions
from deployfold.lowering.result import HeadRoom, KeptNode, LoweredModel
from deployfold.util.onnx_values import inner_graphs

from .convert import convert
from .formats import FORMATS, CastFormat
from .guard import CastGuard

_NEAR = 16.0
"""Head-room below this factor gets a note. The guard itself allows no factor below 8."""


def lower(
    model: ir.Model,
    source: Path,
    path: Path,
    precision: Precision,
    data: LoweringData,
    options: LoweringOptions,
    progress: Progress = silent,
) -> LoweredModel:
    """Write the fp32 ONNX ``source`` with float16 or bfloat16 tensors.

    The fp32 model runs on the inputs and returns all its tensors, because a tensor must not become
    float16 if float16 cannot hold its values. See :mod:`.guard` for the nodes that stay in fp32.
    Inputs and outputs stay float32; only float16 with ``options.float_io`` off changes them.

    Args:
        model: ``source`` in memory, from :func:`~deployfold.lowering.graph.load`; changed in place.

    Raises:
        AccuracyError: the accuracy cannot be kept; nothing is written.
        ExportError: the model computes in another float type, a float16 input or output cannot
            hold its values, or the lowered model is not valid.
    """
    form, inputs = FORMATS[precision], data.range_inputs
    if not inputs:
        raise ExportError(f"Lowering to {form.name} needs at least one set of inputs.")
    float_io = options.float_io or not form.limited_range
    with staged(path) as temporary:
        if not holds(model, ir.DataType.FLOAT):
            return _as_it_is(model, path, temporary, form, data, options)
        if form.opset:
            model = raise_checked(model, source, form.opset, inputs)
        prepare(model)
        scored = data.scored
        scorer = None
        if scored is not None:
            scorer = Measurer(source, scored.feeds, scored.labels, scored.scoring, model=model)
        # A raised model is not that of the file.
        reference = Measurer(source, inputs, None, model=model) if form.opset else source
        guard = CastGuard(
            model, form, inputs, reference, temporary.parent,
            float_io=float_io, progress=progress, scorer=scorer, largest=data.largest,
        )  # fmt: skip
        asked = asked_for(model, options.keep)
        spec = options.guard
        limit = spec.min_sqnr(precision) if spec.enabled else None
        found = guard.keep_accuracy(asked, limit)
        stays = convert(model, form, found.kept, float_io=float_io)
        _check_lowered(model, form, stays)
        size = write(model, temporary, precision, threshold=options.external_threshold)
        if precision is Precision.FP16:  # ONNX Runtime cannot run bfloat16 files on a CPU
            run_session(open_session(temporary, optimize=False), inputs[0])
        notes = _notes(found.head_room, data, float_io=options.float_io, form=form)
        notes += found.notes
        notes += found.measured.not_counted(form.name)
        return LoweredModel(
            path=path,
            bytes=size,
            precision=precision,
            sqnr_db=found.measured.sqnr_db,
            max_abs_diff=found.measured.max_abs_diff,
            outputs=found.measured.outputs,
            scores=found.scores,
            samples=len(inputs) * data.batch,
            measured_on=data.range_origin,
            kept=tuple(KeptNode(str(node.name), node.op_type, reason) for node, reason in stays),
            notes=notes,
            head_room=found.head_room,
        )


def _check_lowered(model: ir.Model, form: CastFormat, stays: Sequence[tuple[ir.Node, str]]) -> None:
    """Refuse a model whose arithmetic all lies in the branches of an ``If`` or in a ``Loop``.

    Raises:
        AccuracyError: no tensor has the type of ``form``.
    """
    values = (value for node in model.graph for value in node.outputs)
    inside = [str(node.name) for node, _ in stays if inner_graphs(node)]
    if not inside or any(value.dtype == form.dtype for value in values):
        return
    raise AccuracyError(
        f"{form.name} would change nothing, because every layer lies in control flow, which stays "
        f"in fp32: {first_few(inside)}. Export the model without the branch or loop, or build "
        f"without --{form.name}."
    )


def _as_it_is(
    model: ir.Model,
    path: Path,
    temporary: Path,
    form: CastFormat,
    data: LoweringData,
    options: LoweringOptions,
) -> LoweredModel:
    """Write a model without float32 tensors unchanged.

    Raises:
        ExportError: the model computes in a float type other than ``form``.
    """
    for dtype in (ir.DataType.DOUBLE, ir.DataType.BFLOAT16, ir.DataType.FLOAT16):
        if dtype != form.dtype and holds(model, dtype):
            raise ExportError(
                f"The model computes in {dtype.name.lower()}, and {form.name} is lowered "
                "from float32.",
                hint="Convert the PyTorch model with .float() before exporting it.",
            )
    return LoweredModel(
        path=path,
        bytes=write(model, temporary, form.precision, threshold=options.external_threshold),
        precision=form.precision,
        sqnr_db=math.inf,
        max_abs_diff=0.0,
        samples=len(data.range_inputs) * data.batch,
        measured_on=data.range_origin,
        notes=("The model holds no float32 tensors: it is taken as it is.",),
    )


def _notes(
    room: HeadRoom | None, data: LoweringData, *, float_io: bool, form: CastFormat
) -> tuple[str, ...]:
    notes: tuple[str, ...] = ()
    if not float_io and not form.limited_range:
        notes += (f"{form.name} keeps float32 inputs and outputs: --io fp16 is for the others.",)
    if room is not None and room.factor < _NEAR:
        notes += (
            f"The tensor {room.tensor!r} reached {room.largest:.3g} on the inputs given; float16 "
            f"ends at 65504, which inputs {room.factor:.3g} times as large reach"
            + ("." if data.real else "; only random inputs were seen."),
        )
    return notes
