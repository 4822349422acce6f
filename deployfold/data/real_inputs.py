"""Real inputs to run a model on, from the same sources as calibration data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from deployfold.config.quantization import RANDOM, CalibrationSpec
from deployfold.config.spec import InputSpec
from deployfold.errors import UsageError

from .calibration import open_source
from .choice import choose, feeds_of
from .labels import load_labels
from .samples import SampleForm


@dataclass(frozen=True)
class Samples:
    """Inputs, one inference each.

    Attributes:
        feeds: arrays by input name, of the shapes (the batch included) and dtypes of the inputs.
        labels: of their samples in order, one a sample; ``None`` without labels.
        origin: where they are from in one phrase, such as «32 of 412 images in pictures/».
        notes: one sentence each on what was decided and skipped.
    """

    feeds: tuple[Mapping[str, NDArray[Any]], ...]
    labels: tuple[int, ...] | None
    origin: str
    notes: tuple[str, ...]


def load_samples(spec: CalibrationSpec, inputs: InputSpec, *, arch: str | None) -> Samples:
    """Choose and read inputs; as :func:`~deployfold.data.calibration.load_calibration`, undivided.

    Args:
        spec: the source, the number of samples, the seed of the choice, and labels.
        inputs: of the model, with the batch size that it is to be fed.
        arch: ``torchvision:NAME`` or ``timm:NAME`` for the preprocessing of images.

    Raises:
        UsageError: there is no such source, it does not match the inputs, it holds NaN, too much of
            it cannot be read, or there is not enough for one inference.
    """
    if spec.source == RANDOM:
        raise UsageError("Random inputs are what runs without --input-data.")
    form = SampleForm.of(inputs)
    source = open_source(spec, inputs, form, arch)
    path = Path(spec.source)
    folder = path if path.is_dir() else None
    every, notes = None, source.notes
    if spec.labels is not None:
        every, about = load_labels(
            spec.labels, folder=folder, files=source.files, count=source.count
        )
        notes += about
    chosen = choose(source, min(spec.samples, source.count), seed=spec.seed, least=1)
    feeds = feeds_of(chosen.samples, form)
    if not feeds:
        raise UsageError(
            f"{len(chosen.samples)} samples do not make one batch of {form.batch}.",
            hint="Give more data, or build for batch 1.",
        )
    used = len(feeds) * form.batch
    return Samples(
        feeds=feeds,
        labels=None if every is None else tuple(every[i] for i in chosen.indices[:used]),
        origin=f"{used} of {source.count} {source.what}",
        notes=(*notes, *chosen.notes, *chosen.skipped),
    )
