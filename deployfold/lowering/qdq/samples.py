"""The samples that a quantised model is fitted to, and those that it is measured on."""

from __future__ import annotations

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
        feeds: what it is fitted to.
        held_back: what its accuracy is measured on.
        labels: classes of the held-back samples.
        fitted: weights are fitted to the feeds; ``False`` rounds them to nearest.
        guarded: the held-back samples are not among the feeds, so the accuracy is held to a limit
            on them.
        measured_on: the held-back samples, as the end of a sentence.
        note: where they are from.
    """

    feeds: list[Feed]
    held_back: Sequence[Feed]
    labels: tuple[int, ...] | None
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
        note = f"calibrated on {data.calibration_origin}"
        return Samples(
            list(data.calibration), data.held_back, data.held_back_labels, fitted, True,
            "held-back samples", (note,) if data.calibration_real else (),
        )  # fmt: skip
    if record.calibration == "required":
        raise UsageError(
            f"{record.title} needs data to calibrate on.", hint="Give it with --calib."
        )
    how = "weights rounded to nearest without calibration data"
    note = f"{how}, measured on {data.inputs_origin}"
    return Samples(list(data.inputs), data.inputs, data.labels, False, False, "inputs", (note,))


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
