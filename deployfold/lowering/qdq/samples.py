"""The samples that a quantised model is fitted to, and those that it is measured on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deployfold.config.precision import Precision
from deployfold.errors import ExportError, UsageError
from deployfold.lowering.request import Feed, LoweringData


@dataclass(frozen=True)
class Samples:
    """Samples, and what may be done with them.

    Attributes:
        feeds: what it is fitted to, those of one fold after those of the other.
        folds: where the second fold begins, so that a fit is judged on pictures it did not see;
            empty where there are too few.
        held_back: what the guard measures on.
        labels: classes of the held-back samples.
        judged: what the reported accuracy is measured on: pictures that neither the fit nor the
            guard saw; the held-back ones where there are no others.
        judged_labels: classes of these.
        fitted: weights are fitted to the feeds; ``False`` rounds them to nearest.
        guarded: the held-back samples are not among the feeds, so the accuracy is held to a limit
            on them.
        measured_on: the judged samples, as the end of a sentence.
        note: where they are from.
    """

    feeds: list[Feed]
    folds: tuple[int, ...]
    held_back: Sequence[Feed]
    labels: tuple[int, ...] | None
    judged: Sequence[Feed]
    judged_labels: tuple[int, ...] | None
    fitted: bool
    guarded: bool
    measured_on: str
    note: tuple[str, ...]


def choose_samples(data: LoweringData, precision: Precision) -> Samples:
    """The calibration data, or for weights alone, which can do without, the build's inputs.

    Raises:
        UsageError: there is none, and activations are to be rounded.
    """
    record = precision.record
    if data.calibration:
        # Random ranges are all that activations have then; a weight is better off without.
        fitted = data.calibration_real or not record.weights_only
        order, folds = halves(data.pictures or tuple(range(len(data.calibration))))
        judged, labels = data.held_back, data.held_back_labels
        measured_on = "held-back samples"
        if data.judged:
            judged, labels = data.judged, data.judged_labels
            measured_on = "samples that neither calibration nor the guard saw"
        note = f"calibrated on {data.calibration_origin}"
        return Samples(
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
    return Samples(
        list(data.inputs), (), data.inputs, data.labels, data.inputs, data.labels, False, False,
        "inputs", (note,),
    )  # fmt: skip


def halves(pictures: Sequence[int]) -> tuple[list[int], tuple[int, ...]]:
    """An order of samples with two folds of about equal size, and where the second begins.

    Samples of one picture are in one fold. The largest picture comes first, each goes to the
    smaller fold; of a single picture there is one fold.
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
    """Refuse samples that are not finite, and an empty list of them.

    Raises:
        ExportError: naming the sample and the input.
    """
    if not feeds:
        name = precision.record.title
        raise ExportError(f"{name} needs calibration samples.", hint="Give them with --calib.")
    for index, feed in enumerate(feeds):
        for name, array in feed.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ExportError(f"Calibration sample {index} holds NaN or infinity in {name!r}.")
