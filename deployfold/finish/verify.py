"""Compares an engine's outputs with those that the build stored, with NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployfold.errors import MeasureError
from deployfold.reporting.row import Accuracy, OutputAccuracy
from deployfold.util.numerics import RunningDifference, least

Array = NDArray[Any]
TOP = 5


def compare_outputs(reference: Mapping[str, Array], outputs: Mapping[str, Array]) -> Accuracy:
    """The accuracy of an engine, as :func:`deployfold.measuring.accuracy.compare` computes it.

    The other module needs torch, which a device may lack; a test compares the two. Outputs are
    matched by their order, because an exporter may have renamed them.

    Args:
        reference: the outputs of the original model.
        outputs: the outputs of the engine.

    Raises:
        MeasureError: the number of outputs or a shape differs.
    """
    if not reference or len(reference) != len(outputs):
        raise MeasureError(
            f"The original has {len(reference)} outputs and the engine {len(outputs)}.",
            hint="Copy the build's directory again.",
        )
    parts, nonfinite = [], 0
    pairs = zip(reference.values(), outputs.values(), strict=True)
    for index, (first, second) in enumerate(pairs):
        if first.shape != second.shape:
            raise MeasureError(
                f"Output {index} has the shape {second.shape}, but the original's {first.shape}.",
                hint="Copy the build's directory again.",
            )
        tally = RunningDifference()
        tally.add(_flat(first), _flat(second))
        nonfinite += tally.nonfinite
        parts.append(
            OutputAccuracy(
                index=index,
                shape=first.shape,
                max_abs_diff=tally.max_abs_diff,
                sqnr_db=tally.sqnr_db,
                cosine=tally.cosine,
            )
        )
    first, second = next(iter(reference.values())), next(iter(outputs.values()))
    classes = _classes(first) if len(reference) == 1 else 0
    winners = first.argmax(axis=1) if classes else None
    return Accuracy(
        max_abs_diff=max(part.max_abs_diff for part in parts),
        sqnr_db=min(part.sqnr_db for part in parts),
        cosine=least([part.cosine for part in parts if part.cosine is not None]),
        top1_agreement=None if winners is None else _share(winners == second.argmax(axis=1)),
        top5_agreement=_top5(winners, second) if winners is not None and classes > TOP else None,
        nonfinite=nonfinite,
        samples=first.shape[0] if first.ndim else 1,
        outputs=tuple(parts) if len(parts) > 1 else (),
    )


def _top5(winners: Array, output: Array) -> float:
    order = np.argsort(-output.astype(np.float64), axis=1, kind="stable")[:, :TOP]
    return _share(np.any(order == winners[:, None], axis=1))


def _share(hits: Array) -> float:
    return float(np.count_nonzero(hits)) / len(hits)


def _classes(output: Array) -> int:
    """The number of classes of a classifier; 0 for other models, and without samples."""
    if output.ndim != 2 or output.shape[0] == 0 or output.shape[1] < 2:
        return 0
    return int(output.shape[1]) if np.issubdtype(output.dtype, np.floating) else 0


def _flat(array: Array) -> NDArray[np.float64]:
    return np.ascontiguousarray(array).reshape(-1).astype(np.float64)
