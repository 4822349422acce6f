"""From an fp32 ONNX to one with quantised layers that keeps the accuracy that was asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from deployfold.config.precision import Precision
from deployfold.config.quantization import GuardSpec
from deployfold.errors import ExportError
from deployfold.exporting.onnx import check_file
from deployfold.exporting.onnx_graph import set_metadata
from deployfold.exporting.session import Array
from deployfold.exporting.storage import EXTERNAL_DATA_BYTES, onnx_bytes, staged, write_model
from deployfold.lowering.fp16.convert import prepare
from deployfold.lowering.fp16.lower import lower_fp16
from deployfold.lowering.lowered import KeptNode, load
from deployfold.lowering.opset import raise_opset

from .artifact import QdqArtifact, report_layers, titles
from .equalise import equalise
from .formats import FORMATS, Format
from .graph import Layer, find_layers, insert
from .guard import Step, keep_accuracy
from .measuring import Measured, Measurer
from .quantise import LayerResult, quantise_layers
from .recentre import recentre
from .residual import with_skips
from .say import Say, silent


def lower_qdq(
    source: Path,
    path: Path,
    *,
    precision: Precision,
    calibration: Sequence[Mapping[str, Array]],
    held_back: Sequence[Mapping[str, Array]],
    labels: Sequence[int] | None = None,
    fitted: bool = True,
    residual: bool = False,
    fallback: Precision = Precision.FP16,
    guard: GuardSpec | None = None,
    float_io: bool = True,
    progress: Say = silent,
    external_threshold: int = EXTERNAL_DATA_BYTES,
) -> QdqArtifact:
    """Write the fp32 ONNX ``source`` with quantised layers.

    Args:
        source: an ONNX file from :func:`deployfold.exporting.export_onnx`, BatchNorm folded.
        path: written atomically, with external data beside it where the weights need it.
        precision: INT8, FP8, or INT4, which is for the weights of matrix products alone.
        calibration: samples by input name.
        held_back: other samples, which the accuracy is measured on.
        labels: the classes of the held-back samples.
        fitted: fit weights to the samples; ``False`` rounds them to nearest, which serves where
            the samples are none that the model is for.
        residual: round the skips of residual sums as well; see :mod:`.residual`.
        fallback: the precision of everything else, FP16 or FP32.
        guard: the accuracy to keep; by default :class:`~deployfold.config.quantization.GuardSpec`.
        float_io: keep float32 inputs and outputs where the fallback is FP16.
        progress: hears what is being done, in a few words.
        external_threshold: bytes of weights above which they go to a file beside it.

    Raises:
        AccuracyError: the accuracy cannot be kept; nothing is written.
        ExportError: there is no layer to quantise, a sample is not finite, or ONNX Runtime fails.
    """
    say = progress
    guard = guard or GuardSpec()
    form = FORMATS[precision]
    _check_finite((*calibration, *held_back), precision)
    feeds = list(calibration)
    model = raise_opset(load(source), form.opset)
    prepare(model)
    layers, unfit = _layers(model, form)
    residual = residual and not form.weight_only
    if residual:
        layers = with_skips(model, layers)
    names = titles(layers)
    if precision is Precision.INT8:  # the steps of FP8 grow with the numbers
        say("equalising channels")
        equalise(model, layers, feeds)
        recentre(model, layers, feeds)
    proto = ir.to_proto(model)
    with staged(path) as temporary:
        scratch = temporary.with_name(f"qdq-{path.name}")
        measurer = Measurer(source, held_back, labels)

        def attempt(excluded: frozenset[str]) -> Step:
            results = quantise_layers(
                proto, layers, feeds, form, excluded=excluded | set(unfit), fitted=fitted,
                progress=say,
            )  # fmt: skip
            _write(proto, results, form, scratch, external_threshold)
            say("measuring on held-back samples")
            return Step(results, measurer.measure(scratch))

        def costs() -> dict[str, Measured]:
            few = feeds[:SENSITIVITY_SAMPLES]
            single = temporary.with_name(f"one-{path.name}")
            sensitivity = Measurer(source, few, None)
            found = {}
            results = quantise_layers(
                proto, layers, few, form, excluded=set(unfit), fitted=fitted, independent=True,
                progress=say,
            )  # fmt: skip
            for number, result in enumerate(results):
                if result.quantised is None:
                    continue
                say(f"what {names[result.layer.name]} costs", number / len(results))
                _write(proto, [result], form, single, external_threshold)
                found[result.layer.name] = sensitivity.measure(single)
            return found

        step, reasons = keep_accuracy(attempt, costs, guard, precision)
        _write(proto, step.results, form, scratch, external_threshold)  # others came after it
        notes: tuple[str, ...] = ()
        if guard.enabled and guard.min_agreement is not None and step.measured.agreement is None:
            notes = ("--min-agreement holds nothing here: the model is no classifier.",)
        if unfit:
            fit = f"{len(layers) - len(unfit)} of {len(layers)} layers"
            notes += (f"{precision.value} is for {fit}; --layers says why not for the others.",)
        if residual:
            scales = [r.quantised.skip_scale for r in step.results if r.quantised is not None]
            rounded = len(scales) - scales.count(None)
            notes += (f"{rounded} residual sums read their skip in {precision.value}.",)
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
            notes, fp32_nodes = (*notes, *lowered.notes), lowered.kept_fp32
        else:
            write_model(load(scratch), temporary, threshold=external_threshold)
        final = load(temporary)
        set_metadata(final, {"deployfold.precision": precision.value})
        write_model(final, temporary, threshold=external_threshold)
        check_file(temporary)
        for extra in temporary.parent.glob("*-" + path.name + "*"):
            extra.unlink()
        size = onnx_bytes(temporary)
    measured = step.measured
    kept = tuple(
        KeptNode(names[layer.name], layer.op_type, reasons[layer.name])
        for layer in layers
        if layer.name in reasons
    )
    return QdqArtifact(
        path=path,
        bytes=size,
        precision=precision,
        fallback=fallback,
        layers=report_layers(step.results, reasons | unfit, precision, fallback),
        sqnr_db=measured.sqnr_db,
        top1_agreement=measured.agreement,
        accuracy=measured.accuracy,
        reference_accuracy=measured.reference_accuracy,
        max_abs_diff=measured.max_abs_diff,
        macs_share=step.share,
        kept=(*kept, *fp32_nodes),
        notes=notes,
    )


SENSITIVITY_SAMPLES = 16
"""Calibration samples on which the guard compares layers."""


def _layers(model: ir.Model, form: Format) -> tuple[list[Layer], dict[str, str]]:
    """All layers, and by name why the format is not for some of them.

    Raises:
        ExportError: it is for none.
    """
    layers, unfit = [], {}
    for layer in find_layers(model):
        weight = model.graph.initializers[layer.weight].shape
        assert weight is not None
        block: int | None = 0
        if form.weight_only and layer.op_type not in ("Gemm", "MatMul"):
            unfit[layer.name] = f"{form.precision.value} is for matrix products"
        elif form.weight_only:
            width = int(weight[1 - layer.axis])
            block = form.block_of(width)
            if block is None:
                unfit[layer.name] = f"its {width} inputs are no multiple of {form.blocks[-1]}"
        layers.append(dataclasses.replace(layer, block=block or 0))
    if len(unfit) == len(layers):
        wanted = "convolution or matrix product in float32 with a constant weight"
        if form.weight_only:
            wanted = f"matrix product with a constant weight of {form.blocks[-1]}, 64, 96 … inputs"
        raise ExportError(
            f"The model has no {wanted}, so there is nothing to quantise.",
            hint="Build it with --fp16.",
        )
    return layers, unfit


def _write(
    proto: onnx.ModelProto,
    results: Sequence[LayerResult],
    form: Format,
    path: Path,
    threshold: int,
) -> None:
    model = ir.from_proto(proto)
    assert isinstance(model, ir.Model)
    quantised = {r.layer.name: r.quantised for r in results if r.quantised is not None}
    insert(model, quantised, form)
    write_model(model, path, threshold=threshold)


def _check_finite(feeds: Sequence[Mapping[str, Array]], precision: Precision) -> None:
    if not feeds:
        name = precision.value.upper()
        raise ExportError(f"{name} needs calibration samples.", hint="Give them with --calib.")
    for index, feed in enumerate(feeds):
        for name, array in feed.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ExportError(f"Calibration sample {index} holds NaN or infinity in {name!r}.")
