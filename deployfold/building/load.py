"""The stage that loads the model, and makes or reads the inputs for all later stages."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from deployfold.config.build_spec import BuildSpec
from deployfold.config.inputs import InputSpec, TensorSpec, random_origin
from deployfold.config.optimization_profiles import DynamicBatch
from deployfold.config.real_data import CalibrationSpec, PreprocessSpec
from deployfold.data.calibration import CalibrationData, load_calibration
from deployfold.data.labels import Label
from deployfold.data.preprocess.resolve import takes_pictures
from deployfold.data.preprocess.shipped import input_shape, shipped_file
from deployfold.data.real_inputs import load_samples, tensors_of
from deployfold.data.sources import inputs_in
from deployfold.errors import UsageError
from deployfold.folding.reestimate import reestimated
from deployfold.loading import (
    LoadedModel,
    in_single_precision,
    load_model,
    make_inputs,
    resolve_inputs,
    with_arguments,
    with_plain_outputs,
)
from deployfold.loading.inputs import forward_of
from deployfold.loading.quantised_training import in_training
from deployfold.loading.transformers_zoo import picture_shape
from deployfold.runtimes.eager import EagerRunner
from deployfold.scoring import ScoredData, Scoring, find_metrics
from deployfold.util.arrays import Array

from .image_input import with_image_input
from .journal import Journal
from .rows import Inputs

_FOLD_SAMPLES = 8


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model, and the data for the build.

    Attributes:
        model: the model, in evaluation mode on the CPU.
        inputs: names, shapes and dtypes of the inputs.
        samples: inputs to run on, one inference each; the first one is timed.
        labels: the label of every sample; ``None`` without labels.
        input_data: the origin of the samples, in one phrase.
        preprocess: how an image becomes an input.
        reestimation: what ``--reestimate-bn`` did to the model; ``None`` without it.
        scoring: the task metrics; ``None`` without any.
    """

    model: LoadedModel
    inputs: InputSpec
    samples: tuple[Inputs, ...]
    labels: tuple[Label, ...] | None
    input_data: str
    calibration: CalibrationData | None
    preprocess: PreprocessSpec
    reestimation: str | None = None
    scoring: Scoring | None = None

    @property
    def name(self) -> str:
        """The name of the model, which is the prefix of every artifact's name."""
        return self.model.name

    @property
    def example(self) -> Inputs:
        """The inputs that are traced and timed."""
        return self.samples[0]

    @property
    def fold_samples(self) -> tuple[Inputs, ...]:
        """The samples that folding traces and verifies: each one costs four forward passes."""
        return self.samples[:_FOLD_SAMPLES]

    @property
    def feeds(self) -> list[dict[str, Array]]:
        """The samples as arrays by input name."""
        return [
            {name: tensor.numpy() for name, tensor in zip(self.inputs.names, sample, strict=True)}
            for sample in self.samples
        ]

    @property
    def scored(self) -> ScoredData | None:
        """The samples of the task metrics: the judged ones of ``--calib``, else the inputs."""
        if self.scoring is None:
            return None
        found = self.calibration
        if found is None or not found.calibrated or (self.labels and not found.labels):
            return ScoredData(self.scoring, self.feeds, self.labels, self.input_data)
        return ScoredData(self.scoring, *found.judged)

    def without_module(self) -> Loaded:
        """A copy without the model, for the stages that no longer run it."""
        return replace(self, model=replace(self.model, module=torch.nn.Identity()))


def model_of(spec: BuildSpec) -> LoadedModel:
    """The model of a specification, as its file or its library has it.

    Raises:
        LoadError, UsageError: the model cannot be loaded.
    """
    return load_model(
        spec.source,
        arch=spec.arch,
        arch_options=dict(spec.arch_options),
        weights=spec.weights,
        allow_globals=spec.allow_globals,
        trust=spec.trust,
        factories=True,
    )


def with_asked_arguments(
    model: LoadedModel, spec: BuildSpec, requested: InputSpec | None
) -> LoadedModel:
    """The model with the inputs that the user names, and without those that ``--fix`` sets.

    Raises:
        UsageError: an input of ``--fix`` is unknown, or its value does not fit.
    """
    if model.kind == "onnx" and spec.fixed:
        from .onnx_fixed import fixed  # imports onnx

        return fixed(model, dict(spec.fixed))
    return with_arguments(model, requested, dict(spec.fixed))


def load(spec: BuildSpec, journal: Journal, *, exported: bool = True) -> Loaded:
    """Load the model and its data.

    Args:
        exported: adapt the model to what exported files can hold: float32 in place of bfloat16,
            float16 and float64, and plain containers as outputs.

    Raises:
        LoadError, UsageError: the model, its inputs or the data cannot be used.
    """
    with journal.running("load", spec.source) as stage:
        metrics = find_metrics(spec.metric.names)  # a wrong name costs no time
        model = model_of(spec)
        shown = None if spec.image_input else _shown_by_data(model, spec)
        requested = spec.inputs or shown
        model = with_asked_arguments(model, spec, requested)
        if exported:
            model, requested = in_single_precision(model, requested)
        shipped = shipped_file(spec.source)
        inputs = _resolve(model, requested or _pictured(model, shipped), spec)
        preprocess = _preprocess(spec, shipped if takes_pictures(inputs) else None)
        if spec.image_input is not None:
            model = with_plain_outputs(model, make_inputs(inputs, seed=spec.seed))
            model, inputs, preprocess = with_image_input(
                model, inputs, preprocess, spec.image_input
            )
        samples: tuple[Inputs, ...]
        notes: tuple[str, ...]
        if spec.input_data is None:
            samples, labels = (make_inputs(inputs, seed=spec.seed),), None
            input_data, notes = random_origin(spec.seed), ()
        else:
            source = replace(spec.input_data, preprocess=preprocess)
            data = load_samples(source, inputs, arch=model.arch)
            samples, labels = data.tensors(inputs), data.labels
            input_data, notes = data.origin, data.notes
        if exported:
            model = with_plain_outputs(model, samples[0])
        calibration = None
        if spec.calibration is not None:
            source = replace(spec.calibration, preprocess=preprocess)
            calibration = load_calibration(source, inputs, arch=model.arch, seed=spec.seed)
            notes += (*calibration.notes, *calibration.skipped)
        reestimation: str | None = None
        if spec.folding.reestimate_bn is not None:
            source = replace(spec.folding.reestimate_bn, preprocess=preprocess, seed=spec.seed)
            model, reestimation, about = _with_statistics_of(source, model, inputs)
            notes += about
        if in_training(model.module):
            from .quantised_training import with_pairs  # imports onnx

            model = with_pairs(model, samples[0], inputs)
        loaded = Loaded(
            model, inputs, samples, labels, input_data, calibration, preprocess, reestimation,
            Scoring(metrics, spec.metric.limits) if metrics else None,
        )  # fmt: skip
        if loaded.scored is not None:
            notes += (_check_scored(loaded.model.module, inputs, loaded.scored),)
        title = "ONNX" if model.kind == "onnx" else type(model.module).__name__
        stage.result(f"{model.arch or title}, {inputs}")
    journal.note((*model.notes, *notes))
    if reestimation is not None:
        journal.note([reestimation], level="warning")
    return loaded


def _with_statistics_of(
    source: CalibrationSpec, model: LoadedModel, inputs: InputSpec
) -> tuple[LoadedModel, str, tuple[str, ...]]:
    """Replace the statistics of the BatchNorms; return the model, the warning and the notes.

    Raises:
        UsageError: the model is an ONNX, or the data cannot be read.
        FoldError: there is nothing to estimate, or it does not work.
    """
    if model.kind == "onnx":
        raise UsageError(
            "--reestimate-bn has no effect: an ONNX holds no PyTorch model.",
            hint="Give the PyTorch model instead, or leave the option out.",
        )
    data = load_samples(source, inputs, arch=model.arch, role="data of --reestimate-bn")
    result = reestimated(model.module, data.tensors(inputs))
    return (
        replace(model, module=result.model),
        f"{result.note} The data: {data.origin}.",
        data.notes,
    )


def _check_scored(module: torch.nn.Module, inputs: InputSpec, data: ScoredData) -> str:
    """Score the original on one feed, so that outputs of another form end the build early.

    Returns:
        A note that names the samples of the metrics.

    Raises:
        UsageError: the labels or the outputs are not of the kind that a metric takes.
        MeasureError: the model cannot run.
    """
    data.scoring.check(data.labels)
    feed, labels = next(data.pairs())
    with closing(EagerRunner(module, title="The model")) as runner:
        runner.load()
        outputs = runner.run(tensors_of(feed, inputs))
    data.scoring.begin().add(outputs, labels, outputs)
    names = ", ".join(one.name for one in data.scoring.metrics)
    return f"{names}: on {len(data.feeds) * max(len(labels), 1)} samples, {data.origin}."


def _preprocess(spec: BuildSpec, shipped: Path | None) -> PreprocessSpec:
    """How an image becomes an input: as the data is given, by the flags, or as it is shipped."""
    data = spec.calibration or spec.input_data
    found = spec.preprocess if data is None else data.preprocess
    if shipped is None or found.source != "auto":
        return found
    return replace(found, source=str(shipped))


def _pictured(model: LoadedModel, shipped: Path | None) -> InputSpec | None:
    """The picture that the shipped preprocessing makes, if nothing in the model has its size."""
    size = None if shipped is None else input_shape(shipped)
    config = getattr(model.module, "config", None)
    channels = getattr(config, "num_channels", None)
    if size is None or channels is None or picture_shape(model.module) is not None:
        return None
    return InputSpec((TensorSpec((1, channels, *size)),), origin=str(shipped))


def _resolve(model: LoadedModel, requested: InputSpec | None, spec: BuildSpec) -> InputSpec:
    if model.kind == "onnx":
        from .resolve_onnx_inputs import resolve_onnx_inputs  # imports onnx

        return resolve_onnx_inputs(model, requested, spec.dynamic)
    return resolve_inputs(model, requested, spec.dynamic)


def _shown_by_data(model: LoadedModel, spec: BuildSpec) -> InputSpec | None:
    """The inputs according to the user's arrays, if the forward has inputs of these names.

    The names may also be those of keywords, or of items of a list or dictionary (``batch.ids``).
    """
    data = spec.input_data or spec.calibration or spec.folding.reestimate_bn
    by_profile = spec.dynamic and not isinstance(spec.dynamic[0], DynamicBatch)
    shown = None if data is None or by_profile else inputs_in(data.source)
    if model.kind == "onnx":
        return shown  # its own names are checked with the shapes
    forward = forward_of(model.module)
    names = {*forward.names, *forward.keywords}
    given = {tensor.name for tensor in shown.tensors if tensor.name} if shown else set()
    return shown if all(one in names or one.partition(".")[0] in names for one in given) else None
