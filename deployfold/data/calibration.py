"""Calibration data: real inputs, split into a part for calibration and a part held back."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from deployfold.config.inputs import InputSpec
from deployfold.config.real_data import RANDOM, CalibrationSpec
from deployfold.errors import UsageError
from deployfold.loading.inputs import make_inputs
from deployfold.util.arrays import Array

from .draw import batches_of, held_back_feeds
from .labels import Label, label_digest
from .picture_groups import by_picture, judged_from
from .real_inputs import read_data
from .samples import SampleForm, sample_digest

UNCALIBRATED = "uncalibrated (random inputs)"
"""The origin that tables and reports show for a calibration on random inputs."""

CALIBRATION_DATA = "calibration data"


@dataclass(frozen=True)
class CalibrationData:
    """Inputs for calibration, and held-back inputs for measuring accuracy.

    A feed maps input names to the arrays of one inference.

    Attributes:
        calibration: feeds in the shapes (with the model's batch) and dtypes of the inputs.
        pictures: of each feed, those of ``held_back`` last, the number of the picture that its
            first sample is of.
        held_back: feeds that calibration never sees; their samples differ from all those of
            ``calibration``.
        judged_from: the first of them that is of a picture that no other part has a sample of; the
            count of all where there are too few to divide.
        labels: the labels of the held-back samples in their order; ``None`` without labels.
        origin: the source in one phrase, such as «64 of 412 images in pictures/, 192 others held
            back».
        calibrated: ``False`` for random inputs; every table and report then shows it.
        skipped: one sentence for each file that could not be used.
        notes: sentences on the decisions made.
        digest: hex SHA-256 over the chosen samples, the split and the labels.
    """

    calibration: tuple[Mapping[str, Array], ...]
    pictures: tuple[int, ...]
    held_back: tuple[Mapping[str, Array], ...]
    judged_from: int
    labels: tuple[Label, ...] | None
    origin: str
    calibrated: bool
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
    digest: str

    @property
    def judged(
        self,
    ) -> tuple[tuple[Mapping[str, Array], ...], tuple[Label, ...] | None, str]:
        """The feeds that only judge, else all held-back ones; their labels, and their name."""
        alone = self.judged_from < len(self.held_back)
        start = self.judged_from if alone else 0
        labels = self.labels
        if labels is not None:
            labels = labels[start * len(labels) // len(self.held_back) :]
        origin = "held back from --calib"
        if alone:
            origin = "those of --calib that neither calibration nor the guard saw"
        return self.held_back[start:], labels, origin


def load_calibration(
    spec: CalibrationSpec, inputs: InputSpec, *, arch: str | None, seed: int = 0
) -> CalibrationData:
    """Choose and read the calibration data.

    Args:
        spec: the source and the number of samples; its seed decides the choice and the split.
        inputs: the model's inputs, with the batch size of one inference.
        arch: ``torchvision:NAME`` or ``timm:NAME`` for the preprocessing of images.
        seed: seed of the values for the source ``random``.

    Raises:
        UsageError: the source does not exist, does not match the inputs, or has NaN; too many
            samples cannot be read; or fewer than two samples are left.
    """
    if not inputs.tensors:
        raise UsageError("A model without inputs cannot be calibrated.")
    form = SampleForm.of(inputs)
    if spec.source == RANDOM:
        return _random(spec, inputs, form, seed)
    data = read_data(spec, inputs, form, arch, role=CALIBRATION_DATA, least=2)
    drawn, pictures = by_picture(data.drawn, spec.seed)
    data = replace(data, drawn=drawn)
    source, notes = data.source, data.notes
    count = len(drawn.samples)
    feeds, held = held_back_feeds(count, form.batch, spec.held_back)
    used, first = (feeds + held) * form.batch, feeds * form.batch
    if used < count:
        notes += (f"{count - used} samples do not fill a batch and were left out.",)
    notes += drawn.notes
    if count < spec.samples:
        notes += (f"{spec.samples} calibration samples were requested, but there are {count}.",)
    labels = data.labels_of(first, used)
    return CalibrationData(
        calibration=batches_of(drawn.samples[:first], form),
        pictures=pictures[: used : form.batch],
        held_back=batches_of(drawn.samples[first:used], form),
        judged_from=-(-(judged_from(pictures[:used], first) - first) // form.batch),
        labels=labels,
        origin=f"{first} of {source.count} {source.what}, {used - first} others held back",
        calibrated=True,
        skipped=drawn.skipped,
        notes=notes,
        digest=_digest(drawn.digests[:used], first, form, source.settings, labels),
    )


def _random(
    spec: CalibrationSpec, inputs: InputSpec, form: SampleForm, seed: int
) -> CalibrationData:
    if spec.labels is not None:
        raise UsageError(
            "Random calibration inputs have no labels.", hint="Remove --labels, or give real data."
        )
    feeds, held = held_back_feeds(max(spec.samples, 2 * form.batch), form.batch, spec.held_back)
    seeds = random.Random(f"calibration {seed} {spec.seed}")
    made = []
    for _ in range(feeds + held):
        values = make_inputs(inputs, seed=seeds.getrandbits(48))
        made.append({name: value.numpy() for name, value in zip(form.names, values, strict=True)})
    note = "The model is calibrated on random inputs, so its accuracy on real data is not known."
    digests = [sample_digest(feed) for feed in made]
    return CalibrationData(
        calibration=tuple(made[:feeds]),
        pictures=tuple(range(feeds + held)),
        held_back=tuple(made[feeds:]),
        judged_from=held,
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
    labels: Sequence[Label] | None,
) -> str:
    known = None if labels is None else [label_digest(one) for one in labels]
    whole = [list(samples[:first]), list(samples[first:]), form.batch, settings, known]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()
