"""The fourth stage: write one ONNX for each precision, and measure its accuracy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace

from deployfold.config.precision import Precision
from deployfold.config.settings import BuildSpec
from deployfold.errors import AccuracyError
from deployfold.exporting.session import Array
from deployfold.lowering import KeptNode, QdqArtifact, lower_bf16, lower_fp16
from deployfold.reporting.model import Accuracy, Int8Layer, Int8Summary

from .artifact import Artifact
from .export import Exported
from .journal import Journal
from .load import Loaded
from .quantised import QUANTISED, QuantisationData, quantisation_data, quantise

NOT_MEASURED = {
    Precision.FP16: "ONNX Runtime has no fp16 kernels for CPUs: it casts to fp32",
    Precision.BF16: "ONNX Runtime has no bf16 kernels for CPUs",
    Precision.INT8: "ONNX Runtime's int8 on a CPU is not what a GPU runs",
    Precision.FP8: "ONNX Runtime on a CPU turns fp8 back into fp32 and computes in that",
    Precision.INT4: "ONNX Runtime on a CPU turns int4 weights back into fp32 and computes in that",
}
"""Why a lowered ONNX has no latency: it would be that of another computation."""

RANGE_SAMPLES = 8
"""Real inputs that FP16 looks at for values beyond its range, and that it and BF16 run on."""


@dataclass(frozen=True, eq=False)
class Lowered:
    """One ONNX for each precision.

    Attributes:
        onnx: by precision; fp32 is the exported one, and always first.
        artifacts: the lowered ones, and those that were refused.
        refusal: why a quantised model was refused, where one was: its accuracy could not be kept.
    """

    onnx: Mapping[Precision, Artifact]
    artifacts: tuple[Artifact, ...]
    refusal: str | None


def lower(exported: Exported, loaded: Loaded, spec: BuildSpec, journal: Journal) -> Lowered:
    """Lower the fp32 ONNX to every precision that was asked for.

    A quantised model that cannot keep its accuracy has no file. The precision that it would have
    left the rest of the model in is then built for the whole model.

    Raises:
        ExportError: the ONNX cannot be lowered.
    """
    fp32 = exported.onnx
    onnx = {Precision.FP32: fp32}
    artifacts: list[Artifact] = []
    refusals: list[str] = []
    for precision in spec.precisions:
        if precision in onnx:  # built in place of a refused one
            continue
        made = None
        if precision in QUANTISED:
            try:
                made = _quantised(fp32, precision, loaded, spec, journal)
            except AccuracyError as error:
                # The user asked for other things as well; the exit code will tell of this one.
                refusals.append(error.message)
                journal.warn(error.message)
                artifacts.append(journal.keep(_refused(fp32, precision, error.message)))
                if Precision.FP16 in onnx or spec.int8_rest is not Precision.FP16:
                    continue
                precision = Precision.FP16
        made = made or _cast(fp32, precision, loaded, spec, journal)
        onnx[precision] = made
        artifacts.append(made)
    return Lowered(onnx, tuple(artifacts), " ".join(refusals) or None)


def _cast(
    fp32: Artifact, precision: Precision, loaded: Loaded, spec: BuildSpec, journal: Journal
) -> Artifact:
    """Lower to 16 bits, fp16 or bf16, by casting tensors."""
    name, source = precision.value, fp32.file
    path = source.with_name(f"{source.stem}.{name}.onnx")
    doing = "looking for values beyond its range" if precision is Precision.FP16 else "rounding"
    with journal.running("lower", f"{name}: {doing}") as stage:
        feeds: list[Mapping[str, Array]] = list(loaded.feeds[:RANGE_SAMPLES])
        if loaded.calibration is not None and loaded.calibration.calibrated:
            feeds += loaded.calibration.calibration[:RANGE_SAMPLES]
        if precision is Precision.FP16:
            lowered = lower_fp16(source, path, inputs=feeds, float_io=spec.float_io)
        else:
            lowered = lower_bf16(source, path, inputs=feeds)
        kept = f", {len(lowered.kept_fp32)} nodes kept in fp32" if lowered.kept_fp32 else ""
        stage.result(f"{name}, {lowered.sqnr_db:.1f} dB against fp32{kept}")
    notes = (*lowered.notes, *_kept(lowered.kept_fp32, "fp32"))
    if precision is Precision.BF16 and not spec.float_io:
        notes = (*notes, "bf16 keeps float32 inputs and outputs: --io fp16 is for the others.")
    about = f"accuracy against the fp32 ONNX, with every {name} tensor rounded"
    artifact = journal.keep(
        replace(
            _unmeasured(fp32, precision),
            path=path,
            bytes=lowered.bytes,
            accuracy=Accuracy(max_abs_diff=lowered.max_abs_diff, sqnr_db=lowered.sqnr_db),
            notes=(about, *notes),
        )
    )
    journal.note(notes, level="warning")
    return artifact


def _quantised(
    fp32: Artifact, precision: Precision, loaded: Loaded, spec: BuildSpec, journal: Journal
) -> Artifact:
    """Lower to int8 or fp8 with Q/DQ nodes, or to int4 weights.

    Raises:
        AccuracyError: the accuracy cannot be kept.
    """
    name, source = precision.value, fp32.file
    data = quantisation_data(loaded, precision)
    path = source.with_name(f"{source.stem}.{name}.onnx")
    doing = f"calibrating on {data.origin}" if data.guarded else "rounding weights"
    where = "held-back samples" if data.guarded else "the inputs"
    with journal.running("lower", f"{name}: {doing}") as stage:
        lowered, cached = quantise(source, path, precision, data, spec, journal.emit)
        stage.result(
            f"{name}, {lowered.sqnr_db:.1f} dB on {where}, "
            f"{lowered.macs_share:.0%} of the multiply-accumulates in {name}"
            + (", from the cache" if cached else "")
        )
    notes = (*data.notes, *lowered.notes, *_kept(lowered.kept, spec.int8_rest.value))
    if not data.guarded and lowered.sqnr_db < spec.guard.min_sqnr_db:
        low = f"{lowered.sqnr_db:.1f} dB is less than --min-sqnr {spec.guard.min_sqnr_db:g}"
        notes = (*notes, f"{low}: with --calib, {name} is fitted to data and held to that limit.")
    about = f"accuracy against the fp32 ONNX, on {data.samples} "
    about += "held-back samples" if data.guarded else "inputs"
    artifact = journal.keep(
        replace(
            _unmeasured(fp32, precision),
            path=path,
            bytes=lowered.bytes,
            accuracy=_accuracy(lowered, data),
            notes=(about, *notes),
            int8=Int8Summary(
                precision=name,
                int8_macs_share=lowered.macs_share,
                calibrated=data.calibrated or not data.guarded,
                layers=tuple(Int8Layer(**dataclasses.asdict(layer)) for layer in lowered.layers),
            ),
        )
    )
    journal.note(notes)
    return artifact


def _accuracy(lowered: QdqArtifact, data: QuantisationData) -> Accuracy:
    return Accuracy(
        max_abs_diff=lowered.max_abs_diff,
        sqnr_db=lowered.sqnr_db,
        top1_agreement=lowered.top1_agreement,
        accuracy=lowered.accuracy,
        samples=data.samples,
    )


def _unmeasured(fp32: Artifact, precision: Precision) -> Artifact:
    """The row of a lowered ONNX before anything is known of its file."""
    return replace(
        fp32,
        name=f"onnxruntime-{precision.value}",
        title=f"ONNX Runtime, {precision.value}",
        runner=None,
        not_measured=NOT_MEASURED[precision],
    )


def _refused(fp32: Artifact, precision: Precision, reason: str) -> Artifact:
    """The row of a quantised model that could not keep its accuracy."""
    row = _unmeasured(fp32, precision)
    return Artifact(row.name, row.title, not_measured=f"refused: {reason}")


def _kept(nodes: tuple[KeptNode, ...], precision: str) -> tuple[str, ...]:
    return tuple(f"{node.name} stays in {precision}: {node.reason}" for node in nodes)
