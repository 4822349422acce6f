"""Draws samples from a source by a seed, and cuts them into feeds of one inference each."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from deployfold.errors import UsageError
from deployfold.util.quiet import add_filter
from deployfold.util.shared import SharedChange

from .samples import Sample, SampleForm, SampleSource, Unreadable, sample_digest

_PILLOW_IS_FINE = SharedChange(lambda: add_filter("ignore", Warning, module=r"PIL\."))
"""Pillow warns of files that it then reads or refuses."""

_LEAST_SKIPPED = 10
_SKIPPED_SHARE = 0.1
"""A source is refused if more than ``_LEAST_SKIPPED`` samples, and more than this share of the
wanted ones, cannot be read: the folder is probably the wrong one, or a broken copy."""

CALIBRATING = 64
"""Most samples for calibration. More cost time and memory and gain little; the others are held
back to measure accuracy."""


@dataclass(frozen=True)
class Drawn:
    """The samples that could be read, in the order of the draw.

    Attributes:
        indices: the index of each sample in its source.
        skipped: a sentence for each file that could not be read.
        notes: sentences for the report.
    """

    indices: tuple[int, ...]
    samples: tuple[Sample, ...]
    digests: tuple[str, ...]
    skipped: tuple[str, ...]
    notes: tuple[str, ...]


def draw(source: SampleSource, wanted: int, *, seed: int | None = None, least: int = 2) -> Drawn:
    """Draw ``wanted`` samples, or all samples of a smaller source.

    Other samples replace those that cannot be read. With a seed, a sample that equals an earlier
    one is left out: calibration must not see a copy of a held-back sample. Without a seed, the
    samples keep their order, and equal ones stay.

    Raises:
        UsageError: too many samples cannot be read (see ``_SKIPPED_SHARE``), or fewer than
            ``least`` remain.
    """
    order = range(source.count)
    indices = iter(order if seed is None else random.Random(seed).sample(order, source.count))
    limit = max(_LEAST_SKIPPED, int(_SKIPPED_SHARE * min(wanted, source.count)))
    drawn: list[tuple[int, Sample, str]] = []
    digests: set[str] = set()
    skipped: list[str] = []
    copies = 0
    workers = min(4, os.cpu_count() or 1)  # Pillow releases Python's lock while it decodes
    with _PILLOW_IS_FINE.made(), ThreadPoolExecutor(workers) as pool:
        while len(drawn) < wanted and copies <= wanted:
            wave = list(islice(indices, min(wanted - len(drawn), 8 * workers)))
            if not wave:
                break
            for index, outcome in zip(
                wave, pool.map(lambda item: _attempt(source, item), wave), strict=True
            ):
                if isinstance(outcome, str):
                    skipped.append(outcome)
                elif seed is not None and outcome[1] in digests:
                    copies += 1
                else:
                    drawn.append((index, *outcome))
                    digests.add(outcome[1])
            if len(skipped) > limit:
                seen = len(drawn) + len(skipped) + copies
                raise UsageError(
                    f"{len(skipped)} of the first {seen} {source.what} cannot be used, for "
                    f"example: {skipped[0]}",
                    hint=f"Up to {limit} are skipped. Repair or remove the others.",
                )
    if len(drawn) < least:
        raise _too_few(source, len(drawn), skipped, copies, least)
    notes = (f"{copies} of the {source.what} equal others and were left out.",) if copies else ()
    return Drawn(
        indices=tuple(index for index, _, _ in drawn),
        samples=tuple(sample for _, sample, _ in drawn),
        digests=tuple(digest for _, _, digest in drawn),
        skipped=tuple(skipped),
        notes=notes,
    )


def _attempt(source: SampleSource, index: int) -> tuple[Sample, str] | str:
    """The sample and its digest, or the reason why it cannot be read."""
    try:
        sample = source.read(index)
    except Unreadable as error:
        return str(error)
    return sample, sample_digest(sample)


def _too_few(
    source: SampleSource, found: int, skipped: Sequence[str], copies: int, least: int
) -> UsageError:
    reason = f": {skipped[0]}" if skipped else "."
    if copies:
        reason = ": all samples are equal."
    text = f"There {'is one usable sample' if found else 'are no usable samples'} among"
    if least < 2:
        return UsageError(f"{text} {source.count} {source.what}{reason}")
    return UsageError(
        f"{text} {source.count} {source.what}, but calibration needs at least two{reason}",
        hint="At least one sample calibrates, and one is held back; 256 samples are usual.",
    )


def held_back_feeds(samples: int, batch: int, share: float) -> tuple[int, int]:
    """The number of feeds for calibration and the number of held-back feeds; both at least 1.

    At least ``share`` of the feeds are held back, and so is everything beyond
    :data:`CALIBRATING` samples.

    Raises:
        UsageError: there are not enough samples for two feeds of ``batch`` samples.
    """
    feeds = samples // batch
    if feeds < 2:
        raise UsageError(
            f"{samples} calibration samples do not make two batches of {batch}, one to calibrate "
            "and one to hold back.",
            hint=f"Take more with --calib-samples {2 * batch} or above, or build for batch 1.",
        )
    held = min(max(round(feeds * share), 1), feeds - 1)
    calibrating = min(feeds - held, max(CALIBRATING // batch, 1))
    return calibrating, feeds - calibrating


def batches_of(samples: Sequence[Sample], form: SampleForm) -> tuple[Sample, ...]:
    """The samples in feeds of the model's batch, without an incomplete last feed."""
    if not form.stacked:
        return tuple(samples)
    groups = [
        samples[start : start + form.batch]
        for start in range(0, len(samples) - form.batch + 1, form.batch)
    ]
    return tuple(
        {name: np.stack([sample[name] for sample in group]) for name in form.names}
        for group in groups
    )
