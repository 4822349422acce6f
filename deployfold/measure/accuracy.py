"""How far an artifact's outputs are from the original's, on the same inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deployfold.errors import MeasureError
from deployfold.numerics import max_abs_diff, sqnr_db

from .protocol import Array


@dataclass(frozen=True)
class Accuracy:
    """Outputs against the original's; of several outputs, the worst counts in every number.

    Pooling the values instead would let an output of large values (boxes in pixels) hide the error
    of a small one (scores).

    Attributes:
        max_abs_diff: the greatest absolute difference; ``inf`` if a value is NaN or infinite where
            the original's is not (or is another infinity).
        sqnr_db: 10 log10 of signal power over error power; ``inf`` for identical outputs.
        cosine: the cosine of the angle between the flattened outputs; 1 for identical ones, NaN if
            one of the two is all zero or ``max_abs_diff`` is infinite.
        top1_agreement: the share of samples with the same argmax, for a model with one output of
            shape (N, classes); else ``None``.
        nonfinite: values that are NaN or infinite in one and not the same in the other.
    """

    max_abs_diff: float
    sqnr_db: float
    cosine: float
    top1_agreement: float | None
    nonfinite: int = 0


def compare(reference: Sequence[Array], outputs: Sequence[Array]) -> Accuracy:
    """Compare ``outputs`` with ``reference``, tensor by tensor, in float64.

    A NaN or an infinity at the same place in both is agreement and is left out of the numbers.

    Raises:
        MeasureError: the number of outputs or a shape differs, or there is nothing to compare.
    """
    if not reference or len(reference) != len(outputs):
        raise MeasureError(
            f"The original has {len(reference)} outputs and the artifact {len(outputs)};"
            " they cannot be compared."
        )
    parts = [_compare_one(first, second) for first, second in zip(reference, outputs, strict=True)]
    return Accuracy(
        max_abs_diff=max(part.max_abs_diff for part in parts),
        sqnr_db=min(part.sqnr_db for part in parts),
        cosine=_least([part.cosine for part in parts]),
        top1_agreement=parts[0].top1_agreement if len(parts) == 1 else None,
        nonfinite=sum(part.nonfinite for part in parts),
    )


def _compare_one(reference: Array, output: Array) -> Accuracy:
    if reference.shape != output.shape:
        raise MeasureError(
            f"An output has the shape {output.shape}, and the original's is {reference.shape}."
        )
    first, second = _flat(reference), _flat(output)
    finite = np.isfinite(first) & np.isfinite(second)
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    nonfinite = int(np.count_nonzero(~finite & ~same))
    return Accuracy(
        max_abs_diff=max_abs_diff(first, second),
        sqnr_db=sqnr_db(first, second),
        cosine=math.nan if nonfinite else _cosine(first[finite], second[finite]),
        top1_agreement=_top1_agreement(reference, output),
        nonfinite=nonfinite,
    )


def _flat(array: Array) -> Array:
    array = np.ascontiguousarray(array).reshape(-1)
    if np.iscomplexobj(array):
        return np.concatenate([array.real, array.imag]).astype(np.float64)
    return array.astype(np.float64)


def _cosine(first: Array, second: Array) -> float:
    if np.array_equal(first, second):
        return 1.0
    # Scaled first, so that neither squares nor their sums overflow.
    scale = [float(np.abs(values).max()) for values in (first, second)]
    if 0.0 in scale:
        return math.nan
    first, second = first / scale[0], second / scale[1]
    value = float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))
    return min(1.0, max(-1.0, value))


def _top1_agreement(reference: Array, output: Array) -> float | None:
    if reference.ndim != 2 or reference.shape[0] == 0 or reference.shape[1] < 2:
        return None
    if not np.issubdtype(reference.dtype, np.floating):
        return None
    return float(np.mean(reference.argmax(axis=1) == output.argmax(axis=1)))


def _least(values: Sequence[float]) -> float:
    return math.nan if any(math.isnan(value) for value in values) else min(values)
