"""The seeded choice of calibration samples, and their division into feeds."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from deployfold.errors import UsageError

from .samples import Sample, SampleForm, SampleSource, Unreadable, sample_digest

_LEAST_SKIPPED = 10
_SKIPPED_SHARE = 0.1

CALIBRATING = 64
"""Samples that calibrate; more cost time and memory, and little is gained. The others measure."""


@dataclass(frozen=True)
class Chosen:
    """Samples that could be read, no two the same, in the order of the draw.

    Attributes:
        indices: of each in its source.
        samples: the samples themselves.
        digests: of each.
        skipped: a sentence for each file that could not be read.
        notes: sentences for the report.
    """

    indices: tuple[int, ...]
    samples: tuple[Sample, ...]
    digests: tuple[str, ...]
    skipped: tuple[str, ...]
    notes: tuple[str, ...]


def choose(source: SampleSource, wanted: int, *, seed: int, least: int = 2) -> Chosen:
    """Draw ``wanted`` samples, or all there are; others replace those that cannot be read.

    A sample that equals one drawn before is left out: a copy among the held-back ones would not
    have been kept from calibration.

    Raises:
        UsageError: more files than the limit cannot be read, a tenth of those wanted and ten at the
            least, or fewer than ``least`` samples remain.
    """
    draw = iter(random.Random(seed).sample(range(source.count), source.count))
    limit = max(_LEAST_SKIPPED, int(_SKIPPED_SHARE * min(wanted, source.count)))
    kept: dict[str, tuple[int, Sample]] = {}
    skipped: list[str] = []
    copies = 0
    workers = min(4, os.cpu_count() or 1)  # Pillow decodes outside of Python's lock
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore")  # Pillow's, on files that it then reads or refuses
        while len(kept) < wanted and copies <= wanted:
            wave = list(islice(draw, min(wanted - len(kept), 8 * workers)))
            if not wave:
                break
            for index, outcome in zip(
                wave, pool.map(lambda item: _attempt(source, item), wave), strict=True
            ):
                if isinstance(outcome, str):
                    skipped.append(outcome)
                elif outcome[1] in kept:
                    copies += 1
                else:
                    kept[outcome[1]] = (index, outcome[0])
            if len(skipped) > limit:
                drawn = len(kept) + len(skipped) + copies
                raise UsageError(
                    f"{len(skipped)} of the first {drawn} {source.what} cannot be used, for "
                    f"example: {skipped[0]}",
                    hint=f"Up to {limit} are skipped. Repair or remove the others.",
                )
    if len(kept) < least:
        raise _too_few(source, len(kept), skipped, copies, least)
    notes = []
    if copies:
        notes.append(f"{copies} of the {source.what} equal others and were left out.")
    if len(kept) < wanted:
        notes.append(f"{wanted} calibration samples were asked for, and there are {len(kept)}.")
    return Chosen(
        indices=tuple(index for index, _ in kept.values()),
        samples=tuple(sample for _, sample in kept.values()),
        digests=tuple(kept),
        skipped=tuple(skipped),
        notes=tuple(notes),
    )


def _attempt(source: SampleSource, index: int) -> tuple[Sample, str] | str:
    try:
        sample = source.read(index)
    except Unreadable as error:
        return str(error)
    return sample, sample_digest(sample)


def _too_few(
    source: SampleSource, kept: int, skipped: Sequence[str], copies: int, least: int
) -> UsageError:
    reason = f": {skipped[0]}" if skipped else "."
    if copies:
        reason = ": they all hold the same."
    found = f"There {'is one usable sample' if kept else 'are no usable samples'} among"
    if least < 2:
        return UsageError(f"{found} {source.count} {source.what}{reason}")
    return UsageError(
        f"{found} {source.count} {source.what}, and two are the least{reason}",
        hint="One sample calibrates and one is held back at the least; 256 are usual.",
    )


def held_back_feeds(samples: int, batch: int, share: float) -> tuple[int, int]:
    """How many feeds of ``batch`` samples calibrate, and how many are held back; both at least 1.

    ``share`` of them are held back, and all beyond the :data:`CALIBRATING` samples that are enough.

    Raises:
        UsageError: there are not enough samples for two feeds.
    """
    feeds = samples // batch
    if feeds < 2:
        raise UsageError(
            f"{samples} calibration samples do not make two batches of {batch}: one calibrates and "
            "one is held back.",
            hint=f"Take more with --calib-samples {2 * batch} or above, or build for batch 1.",
        )
    held = min(max(round(feeds * share), 1), feeds - 1)
    calibrating = min(feeds - held, max(CALIBRATING // batch, 1))
    return calibrating, feeds - calibrating


def feeds_of(samples: Sequence[Sample], form: SampleForm) -> tuple[Sample, ...]:
    """The samples in feeds of the model's batch; those that do not fill one are left out."""
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
