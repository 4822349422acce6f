"""The stage that writes one ONNX for each precision, and measures its accuracy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace

from deployfold.config import row_names
from deployfold.config.build_spec import BuildSpec
from deployfold.config.precision import Precision
from deployfold.data.largest import largest_feeds
from deployfold.data.samples import SampleForm
from deployfold.errors import AccuracyError
from deployfold.events import StageProgress
from deployfold.lowering import lower as lower_onnx
from deployfold.lowering.cache import LoweringCache, default_cache_directory
from deployfold.lowering.request import LoweringData, LoweringOptions, Tuning
from deployfold.lowering.result import LoweredModel
from deployfold.reporting.layers import QuantizationSummary
from deployfold.reporting.row import Accuracy, OutputAccuracy

from .artifact import Artifact
from .file_names import onnx_in
from .journal import Journal
from .load import Loaded
from .results import Exported
from .tuning import tuning


@dataclass(frozen=True, eq=False)
class Lowered:
    """One ONNX for each precision.

    Attributes:
        onnx: the ONNX of each precision; the first is the exported one in fp32.
        artifacts: the lowered artifacts, and the refused ones.
        refusal: the reasons why models were refused for their accuracy; ``None`` without any.
    """

    onnx: Mapping[Precision, Artifact]
    artifacts: tuple[Artifact, ...]
    refusal: str | None


def lower(exported: Exported, loaded: Loaded, spec: BuildSpec, journal: Journal) -> Lowered:
    """Lower the fp32 ONNX to every requested precision.

    A model that cannot keep its accuracy is not written. Instead of a refused quantised model, the
    whole model is built in ``spec.rest_precision``.

    Raises:
        ExportError: the ONNX cannot be lowered.
    """
    fp32 = exported.onnx
    data = _data(loaded, spec)
    if exported.quantised is not None:
        return _lower_given(fp32, exported.quantised, data, spec, journal)
    onnx, tried = {Precision.FP32: fp32}, {Precision.FP32}
    artifacts: list[Artifact] = []
    refusals: list[str] = []
    waiting = list(spec.precisions)
    while waiting:
        precision = waiting.pop(0)
        if precision in tried:  # built instead of a refused model
            continue
        tried.add(precision)
        try:
            timed = tuning(precision, fp32.file, loaded, spec, journal)
            made = _lower(fp32, precision, data, spec, journal, timed)
            onnx[precision] = made
        except AccuracyError as error:
            # Build the other artifacts all the same; the exit code reports the refusal at the end.
            refusals.append(error.message)
            journal.warn(error.message)
            made = journal.keep(_refused(fp32, precision, error.message))
            if precision.record.family == "qdq":
                waiting.insert(0, spec.rest_precision)
        artifacts.append(made)
    return Lowered(onnx, tuple(artifacts), " ".join(refusals) or None)


def _lower_given(
    fp32: Artifact, given: Precision, data: LoweringData, spec: BuildSpec, journal: Journal
) -> Lowered:
    """Keep the Q/DQ nodes of a given ONNX; only its rest is lowered, if the user asks for that.

    Raises:
        UsageError: a requested precision would quantise the model a second time.
    """
    from deployfold.lowering.qdq.lower_given import check_given

    for precision in spec.precisions:
        check_given(given, precision)
    if spec.calibration is not None:
        journal.warn("--calib is not used: the scales come from the file.")
    half = given in spec.precisions and spec.rest_precision is Precision.FP16
    if not (half or Precision.FP16 in spec.precisions):
        return Lowered({Precision.FP32: fp32, given: fp32}, (), None)
    try:
        made = _lower(fp32, given, data, replace(spec, rest_precision=Precision.FP16), journal)
    except AccuracyError as error:
        journal.warn(error.message)
        row = journal.keep(_refused(fp32, given, error.message))
        return Lowered({Precision.FP32: fp32, given: fp32}, (row,), error.message)
    return Lowered({Precision.FP32: fp32, given: made}, (made,), None)


def _lower(
    fp32: Artifact,
    precision: Precision,
    data: LoweringData,
    spec: BuildSpec,
    journal: Journal,
    timed: Tuning | None = None,
) -> Artifact:
    """Lower to one precision.

    Raises:
        AccuracyError: the accuracy cannot be kept.
    """
    name, source = precision.value, fp32.file
    quantised = precision.record.family == "qdq"
    with journal.running("lower", f"{name}: {_doing(precision, data)}") as stage:
        made = lower_onnx(
            source,
            source.with_name(onnx_in(precision, source.stem)),
            precision,
            data,
            LoweringOptions(
                guard=spec.guard,
                keep=spec.keep,
                rest=spec.rest_precision,
                residual=spec.qdq.residual_qdq,
                float_io=spec.float_io,
                tuning=timed,
            ),
            cache=LoweringCache(default_cache_directory()),
            progress=lambda detail, done=None: journal.emit(
                StageProgress("lower", f"{name}: {detail}", done)
            ),
        )
        stage.result(made.summary)
    artifact = journal.keep(
        replace(
            _unmeasured(fp32, precision),
            path=made.path,
            bytes=made.bytes,
            accuracy=Accuracy(
                max_abs_diff=made.max_abs_diff,
                outputs=tuple(
                    OutputAccuracy(index=index, **dataclasses.asdict(one))
                    for index, one in enumerate(made.outputs if len(made.outputs) > 1 else ())
                ),
                sqnr_db=made.sqnr_db,
                top1_agreement=made.top1_agreement,
                accuracy=made.accuracy,
                samples=made.samples,
            ),
            scores=made.scores,
            notes=(made.about, *made.sentences),
            quantization=_layers(made, data) if made.layers else None,
        )
    )
    journal.note(made.sentences, level="info" if quantised else "warning")
    return artifact


def _doing(precision: Precision, data: LoweringData) -> str:
    """The first step of the stage, for its progress line."""
    if precision.record.family == "cast":
        return "looking for values out of range"
    return f"calibrating on {data.calibration_origin}" if data.calibration else "rounding weights"


def _layers(made: LoweredModel, data: LoweringData) -> QuantizationSummary:
    return QuantizationSummary(
        precision=made.precision.value,
        quantized_macs_share=made.macs_share or 0.0,
        calibrated=data.calibration_real or not data.calibration,
        layers=made.layers,
    )


def _unmeasured(fp32: Artifact, precision: Precision) -> Artifact:
    """The row of a lowered ONNX without its file."""
    return replace(
        fp32,
        name=row_names.lowered_onnx(precision),
        title=f"ONNX Runtime, {precision.value}",
        runner=None,
        not_measured=precision.record.no_cpu_latency,
    )


def _refused(fp32: Artifact, precision: Precision, reason: str) -> Artifact:
    """The row of a lowered model that could not keep its accuracy."""
    row = _unmeasured(fp32, precision)
    return Artifact(row.name, row.title, not_measured=f"refused: {reason}")


def _data(loaded: Loaded, spec: BuildSpec) -> LoweringData:
    """The samples for calibration and for measuring lowered models."""
    data = LoweringData(
        inputs=loaded.feeds,
        inputs_origin=loaded.input_data,
        inputs_real=spec.input_data is not None,
        labels=loaded.labels,
        batch=SampleForm.of(loaded.inputs).batch,
        scored=loaded.scored,
        largest=largest_feeds(loaded.inputs, loaded.feeds[0]),
    )
    found = loaded.calibration
    if found is None:
        return data
    divide = found.judged_from * data.batch
    labels = found.labels
    fitted = len(found.calibration)
    return replace(
        data,
        calibration=found.calibration,
        pictures=found.pictures[:fitted],
        held_back=found.held_back[: found.judged_from],
        held_back_pictures=found.pictures[fitted : fitted + found.judged_from],
        held_back_labels=None if labels is None else labels[:divide],
        judged=found.held_back[found.judged_from :],
        judged_labels=None if labels is None else labels[divide:],
        calibration_origin=found.origin,
        calibration_real=found.calibrated,
        digest=found.digest,
    )
