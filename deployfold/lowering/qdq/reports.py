"""Makes the report on each layer of a quantised model, and the notes on the whole."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from deployfold.config.accuracy import GuardSpec
from deployfold.config.precision import Precision
from deployfold.lowering.accuracy import Measured
from deployfold.lowering.estimates import enough_pictures
from deployfold.reporting.layers import QuantizedLayer
from deployfold.reporting.text import decibels, percent

from .guard import Step
from .layers import Layer
from .quantise import LayerResult


def titles(layers: Sequence[Layer]) -> dict[str, str]:
    """The title of each layer for the user, by node name: the module of the weight.

    A layer keeps its node name as the title if its weight is not called ``<module>.weight``, or if
    several layers share the module.
    """
    modules = {layer.name: layer.weight.removesuffix(".weight") for layer in layers}
    shared = Counter(modules.values())
    return {
        layer.name: module
        if layer.weight.endswith(".weight") and shared[module] == 1
        else layer.name
        for layer, module in zip(layers, modules.values(), strict=True)
    }


def report_layers(
    results: Sequence[LayerResult],
    reasons: Mapping[str, tuple[Precision, str]],
    precision: Precision,
) -> tuple[QuantizedLayer, ...]:
    """Make one report for each layer, in graph order.

    Args:
        reasons: for each layer that is not quantised, by node name, its precision and the reason.
    """
    names = titles([result.layer for result in results])
    reports = []
    for result in results:
        instead, reason = reasons.get(result.layer.name, (precision, ""))
        reports.append(
            QuantizedLayer(
                name=names[result.layer.name],
                op_type=result.layer.op_type,
                precision=instead.value,
                macs=result.macs,
                sqnr_db=result.sqnr_db,
                input_range=result.input_range if math.isfinite(result.input_range) else None,
                estimator=result.estimator,
                reason=reason,
            )
        )
    return tuple(reports)


def notes_of(
    step: Step,
    guard: GuardSpec,
    precision: Precision,
    layers: Sequence[Layer],
    unfit: Mapping[str, str],
    residual: bool,
) -> tuple[str, ...]:
    """The notes on the guard, the unfit layers, the skips and the outputs left out."""
    notes: tuple[str, ...] = ()
    if guard.enabled and guard.min_agreement is not None and step.measured.agreement is None:
        notes = ("--min-agreement holds nothing here: the model is not a classifier.",)
    if unfit:
        fit = f"{len(layers) - len(unfit)} of {len(layers)} layers"
        notes += (f"{precision.value} is for {fit}; --layers says why not for the others.",)
    if residual:
        scales = [r.quantised.skip_scale for r in step.results if r.quantised is not None]
        rounded = len(scales) - scales.count(None)
        notes += (f"{rounded} residual sums read their skip in {precision.value}.",)
    return (*notes, *step.measured.not_counted(precision.value))


def unsure_notes(guarding: Measured, judged: Measured, guard: GuardSpec) -> tuple[str, ...]:
    """A note for each limit that other pictures may miss, and for each that the judged ones miss.

    Args:
        guarding: the accuracy on the guard's samples, which hold the limits.
        judged: the accuracy that the report gives.
    """
    notes: list[str] = []
    limits = (
        ("--min-sqnr", guard.min_sqnr_db, decibels, "sqnr_db"),
        ("--min-agreement", guard.min_agreement, percent, "agreement"),
    )
    for option, limit, text, key in limits:
        measured, unseen = getattr(guarding, key), getattr(judged, key)
        likely = getattr(guarding, f"likely_{key}")
        if limit is None or measured is None:
            continue
        if likely is not None and likely < limit:
            enough = enough_pictures(guarding.pictures, measured, likely, limit)
            notes.append(
                f"{option} {limit:g} cannot be promised for other pictures: the guard measured "
                f"{text(measured)} on {guarding.pictures}, and as many others may give "
                f"{text(likely)}." + (f" {enough} such pictures would be enough." if enough else "")
            )
        if unseen < limit:
            notes.append(
                f"{option} {limit:g} is missed on the samples that neither calibration nor the "
                f"guard saw: {text(unseen)}."
            )
    return tuple(notes)


def low_note(measured: Measured, guard: GuardSpec, precision: Precision) -> tuple[str, ...]:
    """The note for a model below the SQNR limit that no guard held to the limit."""
    if measured.sqnr_db >= guard.min_sqnr_db:
        return ()
    low = f"{measured.sqnr_db:.1f} dB is less than --min-sqnr {guard.min_sqnr_db:g}"
    name = precision.value
    return (f"{low}: with --calib, {name} is fitted to data and held to that limit.",)
