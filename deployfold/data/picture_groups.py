"""Groups the samples of one picture, so that a fit and its judge never share a picture.

Samples of one picture are alike: crops, frames of a film, copies that were scaled or stored anew.
A model fitted to some of them looks better on the others than on new ones.

1. Samples that follow each other in their source count as one picture: frames of a film, rows of an
   array that were recorded in turn, crops with numbered names. A block of them is the square root
   of the samples long.
2. Near-duplicates count as one: images whose 8x8 gradients differ in 5 of 64 bits at most
   (difference hash: Krawetz, 2013), wherever they are.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from deployfold.util.arrays import Array

from .draw import Drawn
from .samples import Sample

_NEAR = 5
"""Bits of 64 in which the hashes of near-duplicates may differ."""

_SIDE = 8


def by_picture(drawn: Drawn, seed: int) -> tuple[Drawn, tuple[int, ...]]:
    """The samples with those of one picture together, and the number of each sample's picture.

    Args:
        seed: of the order of the pictures.
    """
    count = len(drawn.samples)
    order = sorted(range(count), key=drawn.indices.__getitem__)
    block = math.isqrt(count)
    numbers = [0] * count
    for rank, sample in enumerate(order):
        numbers[sample] = rank // block
    for sample, other in _near_duplicates([drawn.samples[index] for index in order]):
        numbers[order[sample]] = numbers[order[other]]
    pictures = sorted(set(numbers))
    places = dict(zip(random.Random(seed).sample(pictures, len(pictures)), pictures, strict=True))
    order.sort(key=lambda sample: places[numbers[sample]])
    together = replace(
        drawn,
        indices=tuple(drawn.indices[sample] for sample in order),
        samples=tuple(drawn.samples[sample] for sample in order),
        digests=tuple(drawn.digests[sample] for sample in order),
    )
    return together, tuple(places[numbers[sample]] for sample in order)


def judged_from(pictures: Sequence[int], start: int) -> int:
    """The first of the held-back samples that only judge; those before it guard.

    The guard has half of them, and whole pictures, because what it can promise rests on their
    number. With too few samples, all do both and the count of ``pictures`` is returned.

    Args:
        pictures: of all samples, each picture's together.
        start: of the held-back samples.
    """
    held = len(pictures) - start
    first = start + held // 2
    if held < _LEAST_JUDGED:
        return len(pictures)
    while first < len(pictures) and pictures[first] == pictures[first - 1]:
        first += 1
    return first


_LEAST_JUDGED = 24
"""Fewer held-back samples are not divided: each part would tell too little."""


def _near_duplicates(samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """Pairs of a sample and the first one that it nearly equals."""
    hashes = [_hash(sample) for sample in samples]
    if any(one is None for one in hashes):
        return []
    bits = np.stack([one for one in hashes if one is not None])
    found = []
    for index in range(1, len(bits)):
        near = (bits[:index] != bits[index]).sum(1) <= _NEAR
        if near.any():
            found.append((index, int(near.argmax())))
    return found


def _hash(sample: Sample) -> Array | None:
    """The signs of an image's horizontal gradients on an 8x8 grid; ``None`` for other samples."""
    values = next(iter(sample.values()))
    if len(sample) != 1 or values.ndim < 3:
        return None
    channels = int(np.argmin(values.shape[-3:])) + values.ndim - 3
    grey = values.astype(np.float64).mean(channels)
    grey = grey.reshape(-1, *grey.shape[-2:]).mean(0)
    rows = np.array_split(grey, _SIDE, 0)
    if min(grey.shape) < _SIDE + 1:
        return None
    means = np.array([[p.mean() for p in np.array_split(row, _SIDE + 1, 1)] for row in rows])
    flat: Array = (means[:, 1:] > means[:, :-1]).ravel()
    return flat
