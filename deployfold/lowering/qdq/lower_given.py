"""Writes a model that arrived with Q/DQ nodes, its scales kept and the rest in float16."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from deployfold.config.precision import Precision
from deployfold.errors import UsageError
from deployfold.exporting.storage import SCRATCH_THRESHOLD, staged, write_model
from deployfold.lowering.accuracy import Measurer
from deployfold.lowering.graph import prepare, write
from deployfold.lowering.keep import asked_for
from deployfold.lowering.opset import raise_checked
from deployfold.lowering.progress import Progress, silent
from deployfold.lowering.request import LoweringData, LoweringOptions
from deployfold.lowering.result import LoweredModel

from .formats import FORMATS
from .rest import plan_rest, round_rest


def check_given(given: Precision, precision: Precision) -> None:
    """Check that a model with Q/DQ nodes is not to be quantised a second time.

    Raises:
        UsageError: the precision is neither that of the nodes nor FP16, which is for the rest.
    """
    if precision not in (given, Precision.FP16):
        raise UsageError(
            f"The model holds {given.value} Q/DQ nodes already, and --{precision.value} would "
            "quantise it a second time.",
            hint=f"Leave --{precision.value} out, or give the float model. --fp16 builds what is "
            "not quantised in fp16.",
        )


def lower_given(
    model: ir.Model,
    source: Path,
    path: Path,
    given: Precision,
    data: LoweringData,
    options: LoweringOptions,
    progress: Progress = silent,
) -> LoweredModel:
    """Write a model with Q/DQ nodes with its rest in ``options.rest``.

    A float16 rest needs float16 scales, which changes a scale by 0.05 % at most.

    Args:
        model: ``source`` in memory, from :func:`~deployfold.lowering.graph.load`; changed in place.
        source: an ONNX after :func:`.given.take_over`.
        data: the samples for ranges and measurement; no scale is calibrated.

    Raises:
        AccuracyError: the accuracy cannot be kept; nothing is written.
        ExportError: ONNX Runtime fails.
    """
    inputs = data.range_inputs
    model = raise_checked(model, source, FORMATS[given].opset, inputs)
    prepare(model)
    asked = asked_for(model, options.keep)
    limit = options.guard.min_sqnr(given) if options.guard.enabled else None
    with staged(path) as temporary:
        rest = plan_rest(
            model, source, inputs, asked, limit, options, temporary.parent, progress,
            data.largest,
        )  # fmt: skip
        stays = rest.lower(model)
        rounded = ir.from_proto(ir.to_proto(model))
        round_rest(rounded, rest)
        scratch = temporary.parent / "rounded.onnx"
        write_model(rounded, scratch, threshold=SCRATCH_THRESHOLD)
        measured = Measurer(source, inputs, None).measure(scratch)
        size = write(model, temporary, given, threshold=options.external_threshold)
    return LoweredModel(
        path=path,
        bytes=size,
        precision=given,
        sqnr_db=measured.sqnr_db,
        max_abs_diff=measured.max_abs_diff,
        outputs=measured.outputs,
        samples=len(inputs) * data.batch,
        measured_on=data.range_origin,
        kept=tuple(stays),
        notes=(
            f"{given.value} from the file: its scales are kept",
            *rest.notes,
            *measured.not_counted(given.value),
        ),
        rest=rest.precision,
        head_room=rest.head_room,
    )
