"""Quantises the layers of an fp32 ONNX file, within the accuracy limits of the user."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

from deployfold.config.precision import Precision
from deployfold.data.labels import Label
from deployfold.exporting.given import drop_identities
from deployfold.exporting.storage import SCRATCH_THRESHOLD, staged, write_model
from deployfold.lowering.accuracy import Measured, Measurer
from deployfold.lowering.graph import prepare, write
from deployfold.lowering.keep import asked_for
from deployfold.lowering.opset import raise_checked
from deployfold.lowering.progress import Progress, part_of, silent, unbounded
from deployfold.lowering.request import LoweringData, LoweringOptions
from deployfold.lowering.result import KeptNode, LoweredModel
from deployfold.scoring import ScoredData, Scoring
from deployfold.util.memory import release

from .channels import Comparison
from .costs import outputs_alone
from .fit import STRENGTHS
from .formats import FORMATS, Format
from .guard import Step, keep_accuracy
from .layers import Layer, suitable_layers
from .quantise import LayerResult, quantise_layers
from .reports import low_note, notes_of, report_layers, titles, unsure_notes
from .rest import Rest, build, plan_rest, round_rest
from .sample_split import SampleSplit, check_finite, split_samples
from .skips import with_skips
from .tune import Tuned, tune, without

SENSITIVITY_SAMPLES = 16
"""Calibration samples for the guard's comparison of layers and for the ranges of the rest."""

_CHANNELS, _RANGES, _REST, _LAYERS = 0.2, 0.2, 0.05, 0.35
"""The shares of the time before the guard: scaling channels, ranges, the rest, and the layers.
The rest of the time measures the result. The guard's search then has no known end."""

_BEFORE = _CHANNELS + _RANGES + _REST


def lower(
    model: ir.Model,
    source: Path,
    path: Path,
    precision: Precision,
    data: LoweringData,
    options: LoweringOptions,
    progress: Progress = silent,
) -> LoweredModel:
    """Write the fp32 ONNX ``source`` with quantised layers.

    Args:
        model: ``source`` in memory, from :func:`~deployfold.lowering.graph.load`; changed in place.

    Raises:
        AccuracyError: the accuracy cannot be kept; nothing is written.
        ExportError: the model has no layer to quantise, a sample is not finite, or ONNX Runtime
            fails.
        UsageError: the precision needs calibration data and there is none.
    """
    form = FORMATS[precision]
    samples = split_samples(data, precision)
    guard = options.guard
    guard = dataclasses.replace(
        guard, min_sqnr_db=guard.min_sqnr(precision), enabled=guard.enabled and samples.guarded
    )
    check_finite((*samples.feeds, *samples.held_back), precision)
    model = raise_checked(model, source, form.opset, samples.feeds or data.inputs)
    prepare(model)
    drop_identities(model)
    asked = asked_for(model, options.keep)
    layers, unfit = suitable_layers(model, form, asked)
    residual = options.residual and not form.weight_only
    if residual:
        layers = with_skips(model, layers)
    with staged(path) as temporary:
        cut = True
        if precision is Precision.INT8:  # FP8 needs no equal ranges: its steps grow with the values
            able = [layer for layer in layers if layer.name not in unfit]
            comparison = Comparison(source, able, samples, form, temporary.parent)
            model = comparison.best_channels(model, part_of(progress, 0.0, _CHANNELS))
            cut = comparison.cuts(model, part_of(progress, _CHANNELS, _RANGES))
        rest = plan_rest(
            model, source, samples.feeds[:SENSITIVITY_SAMPLES], asked,
            guard.min_sqnr_db if options.guard.enabled else None, options, temporary.parent,
            part_of(progress, _CHANNELS + _RANGES, _REST), data.largest,
        )  # fmt: skip
        guarding, labels = samples.guarding(guard.enabled)
        pictures = data.held_back_pictures if guard.enabled else ()
        job = _Job(
            source=source,
            proto=ir.to_proto(model),
            layers=layers,
            unfit=unfit,
            cut=cut,
            form=form,
            rest=rest,
            samples=samples,
            measurer=Measurer(
                source,
                guarding,
                labels,
                _scoring(data.scored, labels),
                pictures=pictures,
                optimize=True,
            ),
            scored=data.scored,
            scratch=temporary.parent,
            progress=progress,
        )
        del model
        step, reasons = keep_accuracy(job.attempt, job.costs, guard, precision)
        tuned = Tuned(step, {}, ())
        if options.tuning is not None:
            graph = ir.serde.deserialize_model(job.proto).graph
            tuned = tune(job, graph, step, options.tuning, guard, unbounded(progress))
            step, reasons = tuned.step, reasons | tuned.reasons
        measured = job.judged(step)
        final, stays = build(job.proto, step.results, form, rest)
        size = write(final, temporary, precision, threshold=options.external_threshold)
    notes = (*samples.note, *rest.notes, *notes_of(step, guard, precision, layers, unfit, residual))
    notes += tuned.notes
    if guard.enabled:
        notes += unsure_notes(step.measured, measured, guard)
    elif options.guard.enabled:
        notes += low_note(measured, guard, precision)
    names = titles(layers)
    put_back = tuple(
        KeptNode(names[layer.name], layer.op_type, reasons[layer.name], rest.precision)
        for layer in layers
        if layer.name in reasons
    )
    instead = {
        name: (Precision.FP32 if name in asked else rest.precision, reason)
        for name, reason in (reasons | unfit).items()
    }
    return LoweredModel(
        path=path,
        bytes=size,
        precision=precision,
        sqnr_db=measured.sqnr_db,
        max_abs_diff=measured.max_abs_diff,
        outputs=measured.outputs,
        scores=measured.scores,
        samples=len(samples.judged) * data.batch,
        measured_on=samples.measured_on,
        kept=(*put_back, *stays),
        notes=notes,
        rest=rest.precision,
        layers=report_layers(step.results, instead, precision),
        macs_share=step.share,
        top1_agreement=measured.agreement,
        accuracy=measured.accuracy,
        reference_accuracy=measured.reference_accuracy,
        head_room=rest.head_room,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Job:
    """One model to quantise, with the operations that the guard calls."""

    source: Path
    proto: onnx.ModelProto
    layers: Sequence[Layer]
    unfit: Mapping[str, str]
    cut: bool
    form: Format
    rest: Rest
    samples: SampleSplit
    measurer: Measurer
    scored: ScoredData | None
    scratch: Path
    progress: Progress

    def quantised(self, excluded: Collection[str]) -> list[LayerResult]:
        """Quantise every suitable layer except ``excluded``."""
        progress = unbounded(self.progress)
        if not excluded:  # the first time
            progress = part_of(self.progress, _BEFORE, _LAYERS)
        return quantise_layers(
            self.proto, self.layers, self.samples.feeds, self.form,
            excluded={*excluded, *self.unfit}, strengths=STRENGTHS if self.samples.fitted else (),
            folds=self.samples.folds, earlier=self.every if excluded else (), cut=self.cut,
            progress=progress,
        )  # fmt: skip

    @functools.cached_property
    def every(self) -> list[LayerResult]:
        """The layers after quantising all suitable ones, computed once."""
        return self.quantised(())

    def attempt(self, excluded: frozenset[str], anew: bool = False) -> Step:
        """Quantise all layers except ``excluded``, and measure the resulting file.

        Each layer compensates for the errors of earlier layers, so a change to one layer asks for
        ``anew``, a new fit of the others. Without it, they keep the weights of :attr:`every`.
        """
        results = self.quantised(excluded) if anew else without(self.every, excluded)
        what = f"with {len(excluded)} layers put back" if excluded else "on held-back samples"
        self.progress(f"measuring {what}", None if excluded else _BEFORE + _LAYERS)
        return self.measured(results)

    def measured(self, results: Sequence[LayerResult]) -> Step:
        """Measure the file of ``results`` on the samples of the guard."""
        return Step(results, self.measurer.measure(self._rounded(results)))

    def written(self, results: Sequence[LayerResult], name: str) -> Path:
        """Write the final model of ``results`` as the scratch file ``name``."""
        path = self.scratch / f"{name}.onnx"
        write_model(build(self.proto, results, self.form, self.rest)[0], path)
        return path

    def judged(self, step: Step) -> Measured:
        """The accuracy on samples that neither the fit nor the guard saw.

        Without such samples, the accuracy on the held-back samples.
        """
        feeds, labels = self.samples.judged, self.samples.judged_labels
        same = self.scored is None or self.scored.feeds[0] is feeds[0]
        if feeds is self.measurer.feeds and same:
            return step.measured
        self.progress(f"measuring on {self.samples.measured_on}")
        rounded = self._rounded(step.results)
        scoring = _scoring(self.scored, labels) if same else None
        measured = Measurer(self.source, feeds, labels, scoring, optimize=True).measure(rounded)
        if same or self.scored is None:
            return measured
        # The labels are those of the build's inputs, not of the calibration data.
        scorer = Measurer(self.source, self.scored.feeds, self.scored.labels, self.scored.scoring)
        return dataclasses.replace(measured, scores=scorer.measure(rounded).scores)

    def costs(self) -> dict[str, Measured]:
        """The accuracy with one layer alone rounded to nearest and all others in fp32, by layer."""
        few = self.samples.feeds[:: max(1, len(self.samples.feeds) // SENSITIVITY_SAMPLES)]
        measurer = Measurer(self.source, few, None, optimize=True)
        names = titles(self.layers)
        found = {}
        for name, outputs in outputs_alone(self.proto, few, self.every, self.form):
            self.progress(f"what {names[name]} costs")
            found[name] = measurer.compare(outputs)
        return found

    def _rounded(self, results: Sequence[LayerResult]) -> Path:
        """Write a scratch file that gives the final model's outputs on a CPU."""
        path = self.scratch / "rounded.onnx"
        model, _ = build(self.proto, results, self.form, self.rest)
        round_rest(model, self.rest)
        write_model(model, path, threshold=SCRATCH_THRESHOLD)
        del model
        release()  # before ONNX Runtime holds the same weights
        return path


def _scoring(scored: ScoredData | None, labels: Sequence[Label] | None) -> Scoring | None:
    """The task metrics, for samples that have the labels that the metrics need."""
    if scored is None or (scored.labels is not None and labels is None):
        return None
    return scored.scoring
