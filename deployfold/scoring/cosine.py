"""The metric ``cosine``: how near embeddings are to the original's, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deployfold.errors import UsageError
from deployfold.util.arrays import Array

from .metric import TaskMetric


class _Cosine:
    def __init__(self) -> None:
        self._found: list[float] = []

    def add(
        self, outputs: Sequence[Array], labels: Sequence[Any], reference: Sequence[Array]
    ) -> None:
        own, first = (one[0].astype(np.float64) for one in (outputs, reference))
        if own.shape != first.shape or own.ndim < 2:
            raise UsageError(
                f"--metric cosine needs a first output of shape (samples, …) as the original's "
                f"{tuple(first.shape)}, not {tuple(own.shape)}."
            )
        own, first = (one.reshape(len(one), -1) for one in (own, first))
        lengths = np.linalg.norm(own, axis=1) * np.linalg.norm(first, axis=1)
        self._found += ((own * first).sum(1) / np.maximum(lengths, 1e-300)).tolist()

    def result(self) -> dict[str, float]:
        return {"cosine": float(np.mean(self._found)), "cosine_min": float(np.min(self._found))}


COSINE = TaskMetric("cosine", _Cosine, "none", ("cosine", "cosine_min"))
