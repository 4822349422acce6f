"""Reads the boxes in a detector's outputs, after its NonMaxSuppression. Needs numpy alone.

Four forms are known; further outputs, such as masks, do not matter:

1. One output of rows ``x1, y1, x2, y2, score, class``: (samples, boxes, 6), or (boxes, 6) for a
   batch of one, as ultralytics' models with NMS inside.
2. Boxes (boxes, 4), scores (boxes) and integer classes (boxes), for a batch of one, as torchvision.
3. The same three with a batch axis.
4. Form 3 with the number of boxes of each sample, (samples) or (samples, 1), as TensorRT's plugins.

A box with a score of 0 or less only fills a fixed shape, and is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deployfold.util.arrays import Array

FORMS = (
    "One output (samples, boxes, 6) with x1, y1, x2, y2, score, class; or three, boxes (…, 4), "
    "scores (…) and integer classes (…). A raw head needs its NMS in the model."
)


@dataclass(frozen=True)
class Detections:
    """The boxes that a model found in one sample.

    Attributes:
        boxes: (boxes, 4), x1, y1, x2, y2 in pixels of the model's input.
        scores: (boxes).
        classes: (boxes), integers.
    """

    boxes: Array
    scores: Array
    classes: Array


def read_detections(outputs: Sequence[Array]) -> list[Detections] | None:
    """The boxes of each sample; ``None`` if the outputs have another form."""
    arrays = [np.asarray(one) for one in outputs]
    found = _rows(arrays[0]) if len(arrays) == 1 else _apart(arrays)
    if found is None:
        return None
    boxes, scores, classes, counts = found
    samples = []
    for index in range(len(boxes)):
        end = len(boxes[index]) if counts is None else int(counts[index])
        kept = scores[index][:end] > 0
        samples.append(
            Detections(
                boxes[index][:end][kept].astype(np.float64),
                scores[index][:end][kept].astype(np.float64),
                np.rint(classes[index][:end][kept]).astype(np.int64),
            )
        )
    return samples


def _rows(array: Array) -> tuple[Array, Array, Array, None] | None:
    """Form 1."""
    if array.dtype.kind != "f" or array.ndim not in (2, 3) or array.shape[-1] != 6:
        return None
    rows = array.reshape(-1, *array.shape[-2:])
    return rows[..., :4], rows[..., 4], rows[..., 5], None


def _apart(arrays: Sequence[Array]) -> tuple[Array, Array, Array, Array | None] | None:
    """Forms 2 to 4."""
    fours = [one for one in arrays if one.ndim in (2, 3) and one.shape[-1] == 4 and _float(one)]
    # With four boxes a sample, the scores of form 3 end in 4 as well.
    boxes = [one for one in fours if one.ndim == 3] or fours
    if len(boxes) != 1:
        return None
    shape = boxes[0].shape[:-1]
    others = [one for one in arrays if one.shape == shape and one is not boxes[0]]
    floats = [one for one in others if _float(one)]
    integers = [one for one in others if not _float(one)]
    if not floats or len(floats) + len(integers) < 2:
        return None
    scores, classes = floats[0], (integers or floats[1:])[-1]
    if boxes[0].ndim == 2:
        return boxes[0][None], scores[None], classes[None], None
    counts = [
        one
        for one in arrays
        if not _float(one) and one.size == len(boxes[0]) and one is not classes
    ]
    return boxes[0], scores, classes, counts[0].reshape(-1) if counts else None


def _float(array: Array) -> bool:
    return array.dtype.kind == "f"
