"""The stage of a build that writes one ONNX for each precision."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from deployfold.building.artifact import Artifact
from deployfold.building.quantised import QUANTISED, feed_of, quantisation_data, quantise
from deployfold.building.state import Run
from deployfold.config.precision import Precision
from deployfold.errors import AccuracyError
from deployfold.events import Note
from deployfold.exporting.session import Array
from deployfold.lowering import KeptNode, lower_bf16, lower_fp16
from deployfold.reporting.model import Accuracy, Int8Layer, Int8Summary

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


def lower_stage(run: Run, onnx: Path) -> dict[Precision, Path]:
    """One ONNX for each precision; fp32 is the one that was exported.

    A quantised model that cannot keep its accuracy has no file: ``run.refusal`` says why, and what
    it would have left to fp16 is then all in fp16.
    """
    lowered = {Precision.FP32: onnx}
    for precision in run.spec.precisions:
        if precision in lowered:  # in place of one that was refused
            continue
        if precision not in QUANTISED:
            lowered[precision] = _half(run, onnx, precision)
            continue
        path = _qdq(run, onnx, precision)
        if path is not None:
            lowered[precision] = path
        elif Precision.FP16 not in lowered and run.spec.int8_rest is Precision.FP16:
            lowered[Precision.FP16] = _half(run, onnx, Precision.FP16)
    return lowered


def _half(run: Run, onnx: Path, precision: Precision) -> Path:
    """In 16 bits: fp16 or bf16."""
    name = precision.value
    path = onnx.with_name(f"{onnx.stem}.{name}.onnx")
    doing = "looking for values beyond its range" if precision is Precision.FP16 else "rounding"
    with run.running("lower", f"{name}: {doing}") as say:
        feeds: list[Mapping[str, Array]] = [
            feed_of(run, sample) for sample in run.samples[:RANGE_SAMPLES]
        ]
        if run.calibration is not None and run.calibration.calibrated:
            feeds += run.calibration.calibration[:RANGE_SAMPLES]
        if precision is Precision.FP16:
            artifact = lower_fp16(onnx, path, inputs=feeds, float_io=run.spec.float_io)
        else:
            artifact = lower_bf16(onnx, path, inputs=feeds)
        kept = f", {len(artifact.kept_fp32)} nodes kept in fp32" if artifact.kept_fp32 else ""
        say(f"{name}, {artifact.sqnr_db:.1f} dB against fp32{kept}")
    notes = (*artifact.notes, *_kept(artifact.kept_fp32, "fp32"))
    if precision is Precision.BF16 and not run.spec.float_io:
        notes = (*notes, "bf16 keeps float32 inputs and outputs: --io fp16 is for the others.")
    accuracy = Accuracy(max_abs_diff=artifact.max_abs_diff, sqnr_db=artifact.sqnr_db)
    about = f"accuracy against the fp32 ONNX, with every {name} tensor rounded"
    _add_row(run, precision, path, artifact.bytes, accuracy, (about, *notes))
    run.note(notes, level="warning")
    return path


def _qdq(run: Run, onnx: Path, precision: Precision) -> Path | None:
    """With Q/DQ nodes: int8, fp8, or int4 weights; ``None`` where the accuracy cannot be kept."""
    spec, name = run.spec, precision.value
    data = quantisation_data(run, precision)
    path = onnx.with_name(f"{onnx.stem}.{name}.onnx")
    doing = f"calibrating on {data.origin}" if data.guarded else "rounding weights"
    where = "held-back samples" if data.guarded else "the inputs"
    try:
        with run.running("lower", f"{name}: {doing}") as say:
            artifact, cached = quantise(run, onnx, path, precision, data)
            say(
                f"{name}, {artifact.sqnr_db:.1f} dB on {where}, "
                f"{artifact.macs_share:.0%} of the multiply-accumulates in {name}"
                + (", from the cache" if cached else "")
            )
    except AccuracyError as error:
        # The user has asked for other things as well; the exit code will tell of this one.
        run.refusal = f"{run.refusal} {error.message}" if run.refusal else error.message
        run.emit(Note(error.message, "warning"))
        reason = f"refused: {error.message}"
        title = f"ONNX Runtime, {name}"
        run.artifacts.append(Artifact(f"onnxruntime-{name}", title, not_measured=reason))
        return None
    notes = (*data.said, *artifact.notes, *_kept(artifact.kept, spec.int8_rest.value))
    if not data.guarded and artifact.sqnr_db < spec.guard.min_sqnr_db:
        low = f"{artifact.sqnr_db:.1f} dB is less than --min-sqnr {spec.guard.min_sqnr_db:g}"
        notes = (*notes, f"{low}: with --calib, {name} is fitted to data and held to that limit.")
    accuracy = Accuracy(
        max_abs_diff=artifact.max_abs_diff,
        sqnr_db=artifact.sqnr_db,
        top1_agreement=artifact.top1_agreement,
        accuracy=artifact.accuracy,
        samples=data.samples,
    )
    summary = Int8Summary(
        precision=name,
        int8_macs_share=artifact.macs_share,
        calibrated=data.calibrated or not data.guarded,
        layers=tuple(Int8Layer(**dataclasses.asdict(layer)) for layer in artifact.layers),
    )
    about = f"accuracy against the fp32 ONNX, on {data.samples} "
    about += "held-back samples" if data.guarded else "inputs"
    _add_row(run, precision, path, artifact.bytes, accuracy, (about, *notes), summary)
    run.note(notes)
    return path


def _kept(nodes: tuple[KeptNode, ...], precision: str) -> tuple[str, ...]:
    return tuple(f"{node.name} stays in {precision}: {node.reason}" for node in nodes)


def _add_row(
    run: Run,
    precision: Precision,
    path: Path,
    size: int,
    accuracy: Accuracy,
    notes: tuple[str, ...],
    int8: Int8Summary | None = None,
) -> None:
    base = next(draft for draft in run.artifacts if draft.name == "onnxruntime")
    run.artifacts.append(
        replace(
            base,
            name=f"onnxruntime-{precision.value}",
            title=f"ONNX Runtime, {precision.value}",
            path=path,
            runner=None,
            bytes=size,
            accuracy=accuracy,
            not_measured=NOT_MEASURED[precision],
            notes=notes,
            int8=int8,
        )
    )
