"""The metric ``mean_iou``: intersection over union of each class's pixels, averaged over classes.

The pixels of all samples count together, as for Pascal VOC and Cityscapes. A class counts if a
label or a prediction has a pixel of it. Pixels that the label marks with 255 do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deployfold.errors import UsageError
from deployfold.util.arrays import Array

from .metric import TaskMetric

IGNORED = 255


class _MeanIou:
    def __init__(self) -> None:
        self._pairs = np.zeros((0, 0), np.int64)  # pixels by true and predicted class

    def add(
        self, outputs: Sequence[Array], labels: Sequence[Any], reference: Sequence[Array]
    ) -> None:
        for found, true in zip(_classes(outputs[0], labels), labels, strict=True):
            seen = true != IGNORED
            self._count(np.asarray(true)[seen], found[seen])

    def _count(self, true: Array, found: Array) -> None:
        if not true.size:
            return
        size = max(len(self._pairs), int(true.max()) + 1, int(found.max()) + 1)
        pairs = np.bincount(true.astype(np.int64) * size + found, minlength=size * size)
        whole = pairs.reshape(size, size)
        whole[: len(self._pairs), : len(self._pairs)] += self._pairs
        self._pairs = whole

    def result(self) -> dict[str, float]:
        both = np.diag(self._pairs)
        either = self._pairs.sum(0) + self._pairs.sum(1) - both
        return {"mean_iou": float((both[either > 0] / either[either > 0]).mean())}


def _classes(output: Array, labels: Sequence[Array]) -> Array:
    """The class of every pixel: of scores (N, C, H, W), of one logit (N, 1, H, W), or as given."""
    wanted = (len(labels), *np.shape(labels[0]))
    found = output
    if output.ndim == 4 and output.shape[1] == 1:
        found = output[:, 0]
        found = found > 0 if found.dtype.kind == "f" else found
    elif output.ndim == 4:
        found = output.argmax(1)
    if found.shape != wanted or found.dtype.kind == "f":
        raise UsageError(
            f"--metric mean_iou needs a first output of scores (samples, classes, height, width) "
            f"or of integer classes (samples, height, width); the labels are {wanted}, the output "
            f"is {output.dtype} {tuple(output.shape)}."
        )
    return found.astype(np.int64)


MEAN_IOU = TaskMetric("mean_iou", _MeanIou, "masks", ("mean_iou",))
