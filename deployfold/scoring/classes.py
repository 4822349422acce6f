"""The metrics ``top1`` and ``top5``: the share of samples with the label in the first classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deployfold.errors import UsageError
from deployfold.util.arrays import Array

from .metric import TaskMetric


class _Top:
    def __init__(self, count: int) -> None:
        self._count = count
        self._right = self._samples = 0

    def add(
        self, outputs: Sequence[Array], labels: Sequence[Any], reference: Sequence[Array]
    ) -> None:
        scores = outputs[0].astype(np.float64)
        if scores.ndim != 2 or len(scores) != len(labels):
            raise UsageError(
                f"--metric top{self._count} needs a first output of shape (samples, classes), not "
                f"{tuple(scores.shape)} for {len(labels)} samples."
            )
        # Ties go to the lower class, as in argmax; NaN sorts last.
        first = np.argsort(-scores, axis=1, kind="stable")[:, : self._count]
        self._right += int((first == np.asarray(labels)[:, None]).any(1).sum())
        self._samples += len(labels)

    def result(self) -> dict[str, float]:
        return {f"top{self._count}": self._right / self._samples}


TOP1 = TaskMetric("top1", lambda: _Top(1), "classes", ("top1",))
TOP5 = TaskMetric("top5", lambda: _Top(5), "classes", ("top5",))
