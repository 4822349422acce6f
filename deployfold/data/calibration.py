"""Calibration data: what INT8 ranges are taken from, and what accuracy is measured on."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from deployfold.config.quantization import RANDOM, CalibrationSpec
from deployfold.config.spec import InputSpec
from deployfold.errors import UsageError
from deployfold.loading.inputs import make_inputs

from .arrays import array_source, open_arrays
from .choice import choose, feeds_of, held_back_feeds
from .images import image_source
from .labels import load_labels
from .objects import function_source, tensor_source
from .preprocess.resolve import resolve_preprocess
from .samples import SOURCES, SampleForm, SampleSource, sample_digest

UNCALIBRATED = "uncalibrated (random inputs)"
"""What tables and reports say where there was no data."""

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class CalibrationData:
    """Inputs to calibrate with, and others to measure on.

    Attributes:
        calibration: feeds by input name, in the shapes (the model's batch included) and dtypes of
            the inputs.
        held_back: feeds that no calibration may see; no sample of them equals one above.
        labels: of the held-back samples in their order, one a sample; ``None`` without labels.
        origin: where they are from in one phrase, such as «64 of 412 images in pictures/, 192
            others held back».
        calibrated: ``False`` for random inputs, which every table and report must then say.
        skipped: one sentence for each file that could not be used.
        notes: one sentence each on what was decided.
        digest: hex SHA-256 over the chosen samples, their division and the labels.
    """

    calibration: tuple[Mapping[str, NDArray[Any]], ...]
    held_back: tuple[Mapping[str, NDArray[Any]], ...]
    labels: tuple[int, ...] | None
    origin: str
    calibrated: bool
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
    digest: str


def load_calibration(
    spec: CalibrationSpec, inputs: InputSpec, *, arch: str | None, seed: int = 0
) -> CalibrationData:
    """Choose and read the calibration data.

    Args:
        spec: what was asked for; its own seed decides the choice and the division.
        inputs: of the model, with the batch size that it is to be fed.
        arch: ``torchvision:NAME`` or ``timm:NAME`` for the preprocessing of images.
        seed: of the values of ``random``.

    Raises:
        UsageError: there is no such source, it does not match the inputs, it holds NaN, too much of
            it cannot be read, or fewer than two samples are left.
    """
    if not inputs.tensors:
        raise UsageError("A model without inputs cannot be calibrated.")
    form = SampleForm.of(inputs)
    if spec.source == RANDOM:
        return _random(spec, inputs, form, seed)
    path = Path(spec.source)
    source = open_source(spec, inputs, form, arch)
    folder = path if path.is_dir() else None
    every, notes = None, source.notes
    if spec.labels is not None:
        every, about = load_labels(
            spec.labels, folder=folder, files=source.files, count=source.count
        )
        notes += about
    chosen = choose(source, spec.samples, seed=spec.seed)
    feeds, held = held_back_feeds(len(chosen.samples), form.batch, spec.held_back)
    used, first = (feeds + held) * form.batch, feeds * form.batch
    if used < len(chosen.samples):
        notes += (f"{len(chosen.samples) - used} samples do not fill a batch and were left out.",)
    labels = None if every is None else tuple(every[i] for i in chosen.indices[first:used])
    return CalibrationData(
        calibration=feeds_of(chosen.samples[:first], form),
        held_back=feeds_of(chosen.samples[first:used], form),
        labels=labels,
        origin=f"{first} of {source.count} {source.what}, {used - first} others held back",
        calibrated=True,
        skipped=chosen.skipped,
        notes=notes + chosen.notes,
        digest=_digest(chosen.digests[:used], first, form, source.settings, labels),
    )


def open_source(
    spec: CalibrationSpec, inputs: InputSpec, form: SampleForm, arch: str | None
) -> SampleSource:
    """The samples that ``spec.source`` holds, each to be read when it is asked for.

    Raises:
        UsageError: there is no such source, or it does not match the inputs.
    """
    path = Path(spec.source)
    if path.is_dir():
        return image_source(path, form, resolve_preprocess(spec.preprocess, inputs, arch))
    if not path.exists():
        if _FUNCTION.fullmatch(spec.source):
            return function_source(spec.source, form, spec.samples)
        raise UsageError(f"The calibration data {path} does not exist.", hint=SOURCES)
    if not path.is_file():
        raise UsageError(f"The calibration data {path} is no file and no folder.", hint=SOURCES)
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        return array_source(open_arrays(path), form, f"samples of {path.name}", str(path))
    if suffix in (".pt", ".pth"):
        return tensor_source(path, form)
    raise UsageError(f"{path} is no calibration data of a known kind.", hint=SOURCES)


def _random(
    spec: CalibrationSpec, inputs: InputSpec, form: SampleForm, seed: int
) -> CalibrationData:
    if spec.labels is not None:
        raise UsageError(
            "Random calibration inputs have no labels.", hint="Leave --labels out, or give data."
        )
    feeds, held = held_back_feeds(max(spec.samples, 2 * form.batch), form.batch, spec.held_back)
    seeds = random.Random(f"calibration {seed} {spec.seed}")
    made = []
    for _ in range(feeds + held):
        values = make_inputs(inputs, seed=seeds.getrandbits(48))
        made.append({name: value.numpy() for name, value in zip(form.names, values, strict=True)})
    note = "It is calibrated on random inputs, so the accuracy on real data is not known."
    digests = [sample_digest(feed) for feed in made]
    return CalibrationData(
        calibration=tuple(made[:feeds]),
        held_back=tuple(made[feeds:]),
        labels=None,
        origin=UNCALIBRATED,
        calibrated=False,
        skipped=(),
        notes=(note,),
        digest=_digest(digests, feeds, form, RANDOM, None),
    )


def _digest(
    samples: Sequence[str],
    first: int,
    form: SampleForm,
    settings: str,
    labels: Sequence[int] | None,
) -> str:
    whole = [list(samples[:first]), list(samples[first:]), form.batch, settings, labels]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()
