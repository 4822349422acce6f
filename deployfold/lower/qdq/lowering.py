"""From an fp32 ONNX to one with int8 layers that keeps the accuracy that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from deployfold.errors import ExportError
from deployfold.export.onnx import check_file
from deployfold.export.onnx_graph import set_metadata
from deployfold.export.quiet import first_line
from deployfold.export.session import Array
from deployfold.export.storage import EXTERNAL_DATA_BYTES, onnx_bytes, staged, write_model
from deployfold.lower.fp16 import lower_fp16
from deployfold.lower.fp16_convert import prepare
from deployfold.lower.lowered import KeptNode
from deployfold.quantization import GuardSpec
from deployfold.spec import Precision

from .graph import find_layers, insert
from .guard import Measurer, Step, keep_accuracy
from .quantise import LayerResult, quantise_layers

SAMPLES = 64
"""Calibration samples that are used; more cost time and memory, and little is gained."""


@dataclass(frozen=True)
class LayerReport:
    """One layer with a weight.

    Attributes:
        precision: ``int8``, ``fp16`` or ``fp32``.
        macs: multiply-accumulates of one inference.
        sqnr_db: of its output on the calibration samples against fp32, with everything before it
            quantised as well.
        input_range: the largest magnitude that its input is quantised to; ``None`` out of INT8.
        estimator: how that range was found.
        reason: why it is not in INT8.
    """

    name: str
    op_type: str
    precision: str
    macs: int
    sqnr_db: float
    input_range: float | None
    estimator: str
    reason: str = ""


@dataclass(frozen=True)
class Int8Artifact:
    """An ONNX file with Q/DQ nodes.

    Attributes:
        bytes: size of the file and of its external data.
        fallback: the precision of what is not in INT8.
        layers: the least exact first.
        sqnr_db: of the worst output on the held-back samples, against fp32, in dB.
        top1_agreement: share of held-back samples whose top-1 class stayed; ``None`` for a model
            that is no classifier.
        accuracy, reference_accuracy: share of right classes, here and in fp32; ``None`` without
            labels.
        max_abs_diff: of all outputs on the held-back samples.
        int8_macs_share: share of the layers' multiply-accumulates that are in INT8, 0 to 1.
        kept: the layers that the guard put back, and nodes that fp16 cannot hold.
        notes: sentences for the user.
    """

    path: Path
    bytes: int
    precision: Precision
    fallback: Precision
    layers: tuple[LayerReport, ...]
    sqnr_db: float
    top1_agreement: float | None
    accuracy: float | None
    reference_accuracy: float | None
    max_abs_diff: float
    int8_macs_share: float
    kept: tuple[KeptNode, ...] = ()
    notes: tuple[str, ...] = ()


def lower_int8(
    source: Path,
    path: Path,
    *,
    calibration: Sequence[Mapping[str, Array]],
    held_back: Sequence[Mapping[str, Array]],
    labels: Sequence[int] | None = None,
    fallback: Precision = Precision.FP16,
    guard: GuardSpec | None = None,
    float_io: bool = True,
    progress: Callable[[str], None] | None = None,
    external_threshold: int = EXTERNAL_DATA_BYTES,
) -> Int8Artifact:
    """Write the fp32 ONNX ``source`` with int8 layers.

    Args:
        source: an ONNX file from :func:`deployfold.export.export_onnx`, BatchNorm folded.
        path: written atomically, with external data beside it where the weights need it.
        calibration: samples by input name; :data:`SAMPLES` of them are used.
        held_back: other samples, which the accuracy is measured on.
        labels: the classes of the held-back samples.
        fallback: the precision of everything that is not int8, FP16 or FP32.
        guard: the accuracy to keep; the defaults of :class:`~deployfold.quantization.GuardSpec`.
        float_io: keep float32 inputs and outputs where the fallback is FP16.
        progress: hears what is being done, in a few words.
        external_threshold: bytes of weights above which they go to a file beside it.

    Raises:
        AccuracyError: the accuracy cannot be kept; nothing is written.
        ExportError: there is no layer to quantise, a sample is not finite, or ONNX Runtime fails.
    """
    say = progress or _silent
    guard = guard or GuardSpec()
    _check_finite((*calibration, *held_back))
    feeds = list(calibration[:SAMPLES])
    model = _load(source)
    layers = find_layers(model)
    if not layers:
        raise ExportError(
            "The model has no convolution or matrix product in float32 with a constant weight, so "
            "there is nothing to quantise.",
            hint="Build it with --fp16.",
        )
    proto = ir.to_proto(model)
    with staged(path) as temporary:
        scratch = temporary.with_name(f"qdq-{path.name}")
        measurer = Measurer(source, held_back, labels)

        def attempt(excluded: frozenset[str]) -> Step:
            results = quantise_layers(proto, layers, feeds, excluded=excluded, progress=say)
            _write(proto, results, scratch, external_threshold)
            say("measuring on held-back samples")
            return Step(results, measurer.measure(scratch))

        def costs() -> dict[str, float]:
            few = feeds[:SENSITIVITY_SAMPLES]
            single, sensitivity = (
                temporary.with_name(f"one-{path.name}"),
                Measurer(source, few, None),
            )
            found = {}
            for result in quantise_layers(proto, layers, few, independent=True, progress=say):
                say(f"what {result.layer.name} costs")
                _write(proto, [result], single, external_threshold)
                found[result.layer.name] = sensitivity.measure(single).noise
            return found

        step, reasons = keep_accuracy(attempt, costs, guard)
        notes: tuple[str, ...] = ()
        fp32_nodes: tuple[KeptNode, ...] = ()
        if fallback is Precision.FP16:
            say("the rest to fp16")
            lowered = lower_fp16(
                scratch,
                temporary,
                inputs=feeds[:SENSITIVITY_SAMPLES],
                float_io=float_io,
                external_threshold=external_threshold,
            )
            notes, fp32_nodes = lowered.notes, lowered.kept_fp32
        else:
            write_model(_loaded(scratch), temporary, threshold=external_threshold)
        final = _loaded(temporary)
        set_metadata(final, {"deployfold.precision": Precision.INT8.value})
        write_model(final, temporary, threshold=external_threshold)
        check_file(temporary)
        for extra in temporary.parent.glob("*-" + path.name + "*"):
            extra.unlink()
        size = onnx_bytes(temporary)
    measured = step.measured
    kept = tuple(
        KeptNode(result.layer.name, result.layer.op_type, reasons[result.layer.name])
        for result in step.results
        if result.quantised is None
    )
    return Int8Artifact(
        path=path,
        bytes=size,
        precision=Precision.INT8,
        fallback=fallback,
        layers=_reports(step.results, reasons, fallback),
        sqnr_db=measured.sqnr_db,
        top1_agreement=measured.agreement,
        accuracy=measured.accuracy,
        reference_accuracy=measured.reference_accuracy,
        max_abs_diff=measured.max_abs_diff,
        int8_macs_share=step.int8_share,
        kept=(*kept, *fp32_nodes),
        notes=notes,
    )


SENSITIVITY_SAMPLES = 16
"""Calibration samples on which the guard compares layers."""


def _silent(text: str) -> None:
    return


def _load(source: Path) -> ir.Model:
    try:
        model = _loaded(source)
    except Exception as error:
        raise ExportError(
            f"{source.name} cannot be read as ONNX: {first_line(error)}",
            hint="Give the .onnx file that deployfold export wrote, with its .data file beside it.",
        ) from error
    prepare(model)
    return model


def _loaded(source: Path) -> ir.Model:
    model = ir.load(source)
    ir.external_data.load_to_model(model)
    return model


def _write(
    proto: onnx.ModelProto, results: Sequence[LayerResult], path: Path, threshold: int
) -> None:
    model = ir.from_proto(proto)
    assert isinstance(model, ir.Model)
    quantised = {r.layer.name: r.quantised for r in results if r.quantised is not None}
    insert(model, quantised)
    write_model(model, path, threshold=threshold)


def _reports(
    results: Sequence[LayerResult], reasons: Mapping[str, str], fallback: Precision
) -> tuple[LayerReport, ...]:
    reports = [
        LayerReport(
            name=result.layer.name,
            op_type=result.layer.op_type,
            precision=fallback.value if result.quantised is None else Precision.INT8.value,
            macs=result.macs,
            sqnr_db=result.sqnr_db,
            input_range=None if result.quantised is None else result.input_range,
            estimator=result.estimator,
            reason=reasons.get(result.layer.name, ""),
        )
        for result in results
    ]
    return tuple(sorted(reports, key=lambda report: report.sqnr_db))


def _check_finite(feeds: Sequence[Mapping[str, Array]]) -> None:
    if not feeds:
        raise ExportError("INT8 needs calibration samples.", hint="Give them with --calib.")
    for index, feed in enumerate(feeds):
        for name, array in feed.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ExportError(f"Calibration sample {index} holds NaN or infinity in {name!r}.")
