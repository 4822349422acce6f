"""Reads real inputs for calibration, accuracy, ``bench`` and ``compare``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from deployfold.config.inputs import InputSpec
from deployfold.config.real_data import RANDOM, CalibrationSpec
from deployfold.errors import UsageError
from deployfold.util.arrays import Array

from .draw import Drawn, batches_of, draw
from .labels import Label, load_labels
from .samples import SampleForm, SampleSource
from .sources import open_source

INPUT_DATA = "input data"


@dataclass(frozen=True)
class ReadData:
    """A source, the samples drawn from it, and the labels of all its samples.

    Attributes:
        labels: the label of every sample of the source, in its order; ``None`` without labels.
        notes: sentences for the report.
    """

    source: SampleSource
    drawn: Drawn
    labels: tuple[Label, ...] | None
    notes: tuple[str, ...]

    def labels_of(self, start: int, stop: int) -> tuple[Label, ...] | None:
        """The labels of the drawn samples from ``start`` up to ``stop``."""
        if self.labels is None:
            return None
        return tuple(self.labels[index] for index in self.drawn.indices[start:stop])


@dataclass(frozen=True)
class RealInputs:
    """Real inputs, divided into feeds of one inference each.

    Attributes:
        feeds: arrays by input name, in the shapes (with the batch axis) and dtypes of the inputs;
            float32 for bfloat16, which numpy lacks.
        labels: the label of each sample, in order; ``None`` without labels.
        origin: the source in one phrase, such as «32 of 412 images in pictures/».
        notes: sentences on the decisions made and the samples skipped.
    """

    feeds: tuple[Mapping[str, Array], ...]
    labels: tuple[Label, ...] | None
    origin: str
    notes: tuple[str, ...]

    def tensors(self, inputs: InputSpec) -> tuple[tuple[torch.Tensor, ...], ...]:
        """The feeds as tensors, in the order and dtypes of ``inputs``."""
        return tuple(tensors_of(feed, inputs) for feed in self.feeds)


def tensors_of(feed: Mapping[str, Array], inputs: InputSpec) -> tuple[torch.Tensor, ...]:
    """One feed as tensors, in the order and dtypes of ``inputs``."""
    return tuple(
        torch.from_numpy(feed[name]).to(getattr(torch, tensor.dtype))
        for name, tensor in zip(inputs.names, inputs.tensors, strict=True)
    )


def load_samples(
    spec: CalibrationSpec,
    inputs: InputSpec,
    *,
    arch: str | None,
    every: bool = False,
    role: str = INPUT_DATA,
) -> RealInputs:
    """Draw and read inputs to run a model on.

    Args:
        spec: the source, the number of samples, the seed of the draw, and labels.
        inputs: the model's inputs, with the batch size of one inference.
        arch: ``torchvision:NAME`` or ``timm:NAME`` for the preprocessing of images.
        every: read all samples of a file or folder in their order, with equal ones, instead of
            drawing ``spec.samples`` different ones.
        role: the name of the data in messages.

    Raises:
        UsageError: the source does not exist, does not match the inputs, or has NaN; too many
            samples cannot be read; or the samples do not fill one inference.
    """
    if spec.source == RANDOM:
        raise UsageError("Random inputs need no --input-data: models run on them by default.")
    form = SampleForm.of(_without_bfloat16(inputs))
    data = read_data(spec, inputs, form, arch, role=role, least=1, every=every)
    feeds = batches_of(data.drawn.samples, form)
    if not feeds:
        count = len(data.drawn.samples)
        raise UsageError(
            f"{spec.source} holds {count} samples, but one inference takes {form.batch}.",
            hint="Give more data, or a smaller batch.",
        )
    used = len(feeds) * form.batch
    return RealInputs(
        feeds=feeds,
        labels=data.labels_of(0, used),
        origin=f"{used} of {data.source.count} {data.source.what}",
        notes=(*data.notes, *data.drawn.notes, *data.drawn.skipped),
    )


def read_data(
    spec: CalibrationSpec,
    inputs: InputSpec,
    form: SampleForm,
    arch: str | None,
    *,
    role: str,
    least: int,
    every: bool = False,
) -> ReadData:
    """Open a source, read the labels, and draw the samples.

    Args:
        spec, inputs, arch, every: as for :func:`load_samples`.
        role: the name of the data in messages, such as «calibration data».

    Raises:
        UsageError: as for :func:`load_samples`.
    """
    source = open_source(spec, inputs, form, arch, role)
    labels, notes = source.labels, source.notes
    if labels is not None and len(labels) != source.count:
        raise UsageError(f"{spec.source} has {len(labels)} labels for {source.count} samples.")
    if spec.labels is not None:
        path = Path(spec.source)
        folder = path if path.is_dir() else None
        labels, about = load_labels(spec.labels, source, folder=folder)
        notes += about
    if every:
        drawn = draw(source, source.count, least=least)
    else:
        drawn = draw(source, spec.samples, seed=spec.seed, least=least)
    return ReadData(source, drawn, labels, notes)


def _without_bfloat16(inputs: InputSpec) -> InputSpec:
    tensors = tuple(
        replace(tensor, dtype="float32") if tensor.dtype == "bfloat16" else tensor
        for tensor in inputs.tensors
    )
    return replace(inputs, tensors=tensors)
