"""The stage of a build that writes one ONNX for each precision."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime

from deployfold import __version__
from deployfold.errors import AccuracyError
from deployfold.events import Note, StageStarted
from deployfold.export.session import Array
from deployfold.files import sha256
from deployfold.lower import Int8Artifact, KeptNode, LayerReport, lower_fp16, lower_int8
from deployfold.lower.calibration import CalibrationData
from deployfold.lower.calibration_cache import LoweringCache, cache_key, default_cache_directory
from deployfold.report.model import Accuracy, Int8Layer, Int8Summary
from deployfold.rows import Draft
from deployfold.run import Run
from deployfold.spec import Precision

RANGE_SAMPLES = 8
"""Real inputs that FP16 looks at for values beyond its range."""


def lower_stage(run: Run, onnx: Path) -> dict[Precision, Path]:
    """One ONNX for each precision; fp32 is the one that was exported.

    INT8 that cannot keep its accuracy has no file: ``run.refusal`` says why, and what it would
    have left to fp16 is then all in fp16.
    """
    lowered = {Precision.FP32: onnx}
    if Precision.FP16 in run.spec.precisions:
        lowered[Precision.FP16] = _fp16(run, onnx)
    if Precision.INT8 in run.spec.precisions:
        path = _int8(run, onnx)
        if path is not None:
            lowered[Precision.INT8] = path
        elif Precision.FP16 not in lowered and run.spec.int8_rest is Precision.FP16:
            lowered[Precision.FP16] = _fp16(run, onnx)
    return lowered


def _fp16(run: Run, onnx: Path) -> Path:
    path = onnx.with_name(f"{onnx.stem}.fp16.onnx")
    with run.running("lower", "fp16: looking for values beyond its range") as say:
        feeds: list[Mapping[str, Array]] = [
            _feed(run, sample) for sample in run.samples[:RANGE_SAMPLES]
        ]
        if run.calibration is not None and run.calibration.calibrated:
            feeds += run.calibration.calibration[:RANGE_SAMPLES]
        artifact = lower_fp16(onnx, path, inputs=feeds, float_io=run.spec.float_io)
        kept = f", {len(artifact.kept_fp32)} nodes kept in fp32" if artifact.kept_fp32 else ""
        say(f"fp16, {artifact.sqnr_db:.1f} dB against fp32{kept}")
    notes = (*artifact.notes, *_kept(artifact.kept_fp32, "fp32"))
    accuracy = Accuracy(max_abs_diff=artifact.max_abs_diff, sqnr_db=artifact.sqnr_db)
    about = "accuracy against the fp32 ONNX, with every fp16 tensor rounded"
    reason = "ONNX Runtime has no fp16 kernels for CPUs: it casts to fp32"
    _add_row(run, Precision.FP16, path, artifact.bytes, accuracy, reason, (about, *notes))
    run.note(notes, level="warning")
    return path


def _int8(run: Run, onnx: Path) -> Path | None:
    data, spec = run.calibration, run.spec
    assert data is not None
    path = onnx.with_name(f"{onnx.stem}.int8.onnx")
    try:
        with run.running("lower", f"int8: calibrating on {data.origin}") as say:
            artifact, cached = _quantise(run, onnx, path, data)
            say(
                f"int8, {artifact.sqnr_db:.1f} dB on held-back samples, "
                f"{artifact.int8_macs_share:.0%} of the multiply-accumulates in int8"
                + (", from the cache" if cached else "")
            )
    except AccuracyError as error:
        # The user has asked for other things as well; the exit code will tell of this one.
        run.refusal = error.message
        run.emit(Note(error.message, "warning"))
        run.drafts.append(
            Draft(
                "onnxruntime-int8", "ONNX Runtime, int8", not_measured=f"refused: {error.message}"
            )
        )
        return None
    notes = (
        f"calibrated on {data.origin}" if data.calibrated else data.origin,
        *artifact.notes,
        *_kept(artifact.kept, spec.int8_rest.value),
    )
    accuracy = Accuracy(
        max_abs_diff=artifact.max_abs_diff,
        sqnr_db=artifact.sqnr_db,
        top1_agreement=artifact.top1_agreement,
        accuracy=artifact.accuracy,
        samples=len(data.held_back),
    )
    summary = Int8Summary(
        int8_macs_share=artifact.int8_macs_share,
        calibrated=data.calibrated,
        layers=tuple(Int8Layer(**dataclasses.asdict(layer)) for layer in artifact.layers),
    )
    about = f"accuracy against the fp32 ONNX, on {len(data.held_back)} held-back samples"
    reason = "ONNX Runtime's int8 on a CPU is not what a GPU runs"
    _add_row(run, Precision.INT8, path, artifact.bytes, accuracy, reason, (about, *notes), summary)
    run.note(notes)
    return path


def _quantise(run: Run, onnx: Path, path: Path, data: CalibrationData) -> tuple[Int8Artifact, bool]:
    """Quantise, or take what an earlier run made of the same model, data and settings."""
    spec = run.spec
    cache = LoweringCache(default_cache_directory())
    key = cache_key(
        {
            "onnx": sha256(onnx),
            "data": data.digest,
            "guard": repr(spec.guard),
            "settings": f"{spec.int8_rest.value} {spec.float_io}",
            "versions": f"deployfold {__version__} onnxruntime {onnxruntime.__version__}",
        }
    )
    facts = cache.get(key, path)
    if facts is not None:
        return _artifact(path, facts), True
    artifact = lower_int8(
        onnx,
        path,
        calibration=data.calibration,
        held_back=data.held_back,
        labels=data.labels,
        fallback=spec.int8_rest,
        guard=spec.guard,
        float_io=spec.float_io,
        progress=lambda detail: run.emit(StageStarted("lower", f"int8: {detail}")),
    )
    cache.put(key, path, dataclasses.asdict(artifact) | {"path": ""})
    return artifact, False


def _artifact(path: Path, facts: Mapping[str, Any]) -> Int8Artifact:
    plain = dict(facts)
    plain |= {
        "path": path,
        "precision": Precision(plain["precision"]),
        "fallback": Precision(plain["fallback"]),
        "layers": tuple(LayerReport(**layer) for layer in plain["layers"]),
        "kept": tuple(KeptNode(**node) for node in plain["kept"]),
        "notes": tuple(plain["notes"]),
    }
    return Int8Artifact(**plain)


def _kept(nodes: tuple[KeptNode, ...], precision: str) -> tuple[str, ...]:
    return tuple(f"{node.name} stays in {precision}: {node.reason}" for node in nodes)


def _feed(run: Run, sample: Any) -> dict[str, Array]:
    assert run.inputs is not None
    return {name: tensor.numpy() for name, tensor in zip(run.inputs.names, sample, strict=True)}


def _add_row(
    run: Run,
    precision: Precision,
    path: Path,
    size: int,
    accuracy: Accuracy,
    reason: str,
    notes: tuple[str, ...],
    int8: Int8Summary | None = None,
) -> None:
    base = next(draft for draft in run.drafts if draft.name == "onnxruntime")
    run.drafts.append(
        replace(
            base,
            name=f"onnxruntime-{precision.value}",
            title=f"ONNX Runtime, {precision.value}",
            path=path,
            runner=None,
            bytes=size,
            accuracy=accuracy,
            not_measured=reason,
            notes=notes,
            int8=int8,
        )
    )
