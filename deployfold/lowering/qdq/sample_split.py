"""Chooses the samples to fit a quantised model to, and the samples to measure the model on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deployfold.config.precision import Precision
from deployfold.data.labels import Label
from deployfold.errors import ExportError, UsageError
from deployfold.lowering.request import Feed, LoweringData


@dataclass(frozen=True)
class SampleSplit:
    """The samples of one lowering, by purpose.

    Attributes:
        feeds: the samples for the fit; the second fold follows the first.
        folds: the index where the second fold begins. A fit to one fold is judged on the pictures
            of the other. Empty without a second fold.
        held_back: the samples for the guard's measurements.
        labels: labels of the held-back samples.
        judged: the samples for the reported accuracy: pictures that neither the fit nor the guard
            saw, or the held-back samples if there are no others.
        judged_labels: labels of the judged samples.
        fitted: whether weights are fitted to the feeds; ``False`` rounds weights to nearest.
        guarded: whether the held-back samples are separate from the feeds. Only then does the
            guard hold the accuracy to a limit.
        measured_on: a description of the judged samples, as the end of a sentence.
        note: the source of the samples, as notes for the user.
    """

    feeds: list[Feed]
    folds: tuple[int, ...]
    held_back: Sequence[Feed]
    labels: tuple[Label, ...] | None
    judged: Sequence[Feed]
    judged_labels: tuple[Label, ...] | None
    fitted: bool
    guarded: bool
    measured_on: str
    note: tuple[str, ...]

    def guarding(self, guard: bool) -> tuple[Sequence[Feed], tuple[Label, ...] | None]:
        """The samples of the guard's measurements and their classes; without a guard, the judged
        samples."""
        if guard:
            return self.held_back, self.labels
        return self.judged, self.judged_labels


def split_samples(data: LoweringData, precision: Precision) -> SampleSplit:
    """Choose the calibration data, or the build's inputs for a precision that needs none.

    Raises:
        UsageError: the precision requires calibration data and there is none.
    """
    record = precision.record
    if data.calibration:
        # Without real data, activations can only take random ranges, but weights are more exact
        # without a fit to random samples.
        fitted = data.calibration_real or not record.weights_only
        order, folds = halves(data.pictures or tuple(range(len(data.calibration))))
        judged, labels = data.held_back, data.held_back_labels
        measured_on = "held-back samples"
        if data.judged:
            judged, labels = data.judged, data.judged_labels
            measured_on = "samples that neither calibration nor the guard saw"
        note = f"calibrated on {data.calibration_origin}"
        return SampleSplit(
            [data.calibration[index] for index in order], folds, data.held_back,
            data.held_back_labels, judged, labels, fitted, True, measured_on,
            (note,) if data.calibration_real else (),
        )  # fmt: skip
    if record.calibration == "required":
        raise UsageError(
            f"{record.title} needs data to calibrate on.", hint="Give it with --calib."
        )
    how = "weights rounded to nearest without calibration data"
    note = f"{how}, measured on {data.inputs_origin}"
    return SampleSplit(
        list(data.inputs), (), data.inputs, data.labels, data.inputs, data.labels, False, False,
        "inputs", (note,),
    )  # fmt: skip


def halves(pictures: Sequence[int]) -> tuple[list[int], tuple[int, ...]]:
    """Divide samples into two folds of about equal size that share no picture.

    The pictures with the most samples are placed first, and each picture goes to the smaller fold.
    A single picture makes a single fold.

    Args:
        pictures: the number of the picture of each sample.

    Returns:
        The indices of the samples, fold after fold, and the position where the second fold begins;
        the latter is empty for a single fold.
    """
    sizes = Counter(pictures)
    folds: tuple[set[int], set[int]] = (set(), set())
    counts = [0, 0]
    for picture, size in sizes.most_common():
        smaller = int(counts[1] < counts[0])
        folds[smaller].add(picture)
        counts[smaller] += size
    parts = [[i for i, picture in enumerate(pictures) if picture in fold] for fold in folds]
    return parts[0] + parts[1], (len(parts[0]),) if parts[1] else ()


def check_finite(feeds: Sequence[Feed], precision: Precision) -> None:
    """Check that there are samples and that all of them are finite.

    Raises:
        ExportError: there are no samples, or a sample holds NaN or infinity; the message names the
            sample and the input.
    """
    if not feeds:
        name = precision.record.title
        raise ExportError(f"{name} needs calibration samples.", hint="Give them with --calib.")
    for index, feed in enumerate(feeds):
        for name, array in feed.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ExportError(f"Calibration sample {index} holds NaN or infinity in {name!r}.")
