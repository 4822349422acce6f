"""Compares an artifact's outputs with the original's, on the same inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deployfold.errors import MeasureError
from deployfold.reporting.row import Accuracy, OutputAccuracy
from deployfold.util.arrays import Array
from deployfold.util.numerics import RunningDifference, least, top_classes

TOP = 5


def compare(
    reference: Sequence[Array], outputs: Sequence[Array], labels: Sequence[int] | None = None
) -> Accuracy:
    """Compare ``outputs`` with ``reference``, tensor by tensor, in float64.

    Equal NaN or infinite values at the same place agree, and do not count in the numbers.

    Args:
        reference, outputs: the same number of arrays, of the same shapes, any dtype.
        labels: the class of every sample; for classifiers only.

    Raises:
        MeasureError: the number of outputs or a shape differs, there is nothing to compare, the
            model with labels is not a classifier, or the number of labels is wrong.
    """
    comparison = Comparison()
    comparison.add(reference, outputs, labels)
    return comparison.result()


def not_judged(outputs: Sequence[Array]) -> tuple[str, ...]:
    """Notes about the original's outputs whose comparison says little or nothing.

    1. Values that are NaN or infinite are left out of every comparison.
    2. An artifact easily agrees with an output of zeros, whatever its accuracy elsewhere.
    """
    notes = []
    for index, output in enumerate(outputs):
        if output.dtype.kind not in "fc" or not output.size:
            continue
        name = "the output" if len(outputs) == 1 else f"output {index}"
        share = 1.0 - float(np.isfinite(output).mean())
        if share:
            notes.append(
                f"{name}: {100 * share:.3g} % of the values are NaN or infinite here, and "
                "are not compared"
            )
        elif not output.any():
            notes.append(f"{name} is all zero here, so that its accuracy says nothing")
    return tuple(notes)


class Comparison:
    """:func:`compare` over any number of inputs, without keeping their outputs in memory."""

    def __init__(self) -> None:
        self._tallies: list[RunningDifference] = []
        self._shapes: list[tuple[int, ...]] = []
        self._samples = 0
        self._classes: int | None = None
        self._top1 = self._top5 = self._correct = self._labelled = 0

    def add(
        self,
        reference: Sequence[Array],
        outputs: Sequence[Array],
        labels: Sequence[int] | None = None,
        samples: int | None = None,
    ) -> None:
        """Add the outputs of one inference; see :func:`compare`.

        Args:
            samples: the number of samples; ``None`` takes the first axis of the first output, which
                counts boxes instead in some detectors.
        """
        if not reference or len(reference) != len(outputs):
            raise MeasureError(
                f"The outputs cannot be compared: the original has {len(reference)} outputs and "
                f"the artifact {len(outputs)}."
            )
        for first, second in zip(reference, outputs, strict=True):
            if first.shape != second.shape:
                raise MeasureError(
                    f"An output has the shape {second.shape}, but the original's is {first.shape}."
                )
        if not self._tallies:
            self._tallies = [RunningDifference() for _ in reference]
            self._shapes = [tuple(array.shape) for array in reference]
            self._classes = _classes(reference)
        if len(reference) != len(self._tallies):
            raise MeasureError("The number of outputs changes from one input to the next.")
        for tally, first, second in zip(self._tallies, reference, outputs, strict=True):
            tally.add(_flat(first), _flat(second))
        count = reference[0].shape[0] if reference[0].ndim else 1
        self._samples += count if samples is None else samples
        if self._classes is not None:
            self._agree(reference[0], outputs[0])
        if labels is not None:
            self._label(outputs[0], labels, count)

    def result(self) -> Accuracy:
        """The numbers of everything added so far.

        Raises:
            MeasureError: nothing was added.
        """
        if not self._tallies:
            raise MeasureError("There are no outputs to compare.")
        parts = [
            OutputAccuracy(
                index=index,
                shape=shape,
                max_abs_diff=tally.max_abs_diff,
                sqnr_db=tally.sqnr_db,
                cosine=tally.cosine,
            )
            for index, (shape, tally) in enumerate(zip(self._shapes, self._tallies, strict=True))
        ]
        classifier = self._classes is not None and self._samples > 0
        many = self._classes is not None and self._classes > TOP
        return Accuracy(
            max_abs_diff=max(part.max_abs_diff for part in parts),
            sqnr_db=min(part.sqnr_db for part in parts),
            cosine=least([tally.cosine for tally in self._tallies]),
            top1_agreement=self._top1 / self._samples if classifier else None,
            nonfinite=sum(tally.nonfinite for tally in self._tallies),
            top5_agreement=self._top5 / self._samples if classifier and many else None,
            accuracy=self._correct / self._labelled if self._labelled else None,
            samples=self._samples,
            outputs=tuple(parts) if len(parts) > 1 else (),
        )

    def _agree(self, reference: Array, output: Array) -> None:
        winners = reference.argmax(axis=1)
        self._top1 += int(np.count_nonzero(winners == output.argmax(axis=1)))
        self._top5 += int(
            np.count_nonzero(np.any(top_classes(output, TOP) == winners[:, None], axis=1))
        )

    def _label(self, output: Array, labels: Sequence[int], count: int) -> None:
        if self._classes is None:
            raise MeasureError(
                "Labels need a classifier: one floating-point output of shape (N, classes)."
            )
        if len(labels) != count:
            raise MeasureError(f"There are {len(labels)} labels for {count} samples.")
        worst = max(labels, default=0)
        if worst >= self._classes or min(labels, default=0) < 0:
            raise MeasureError(
                f"A label is {worst if worst >= self._classes else min(labels)}, but the model has"
                f" {self._classes} classes, counted from 0."
            )
        self._correct += int(np.count_nonzero(output.argmax(axis=1) == np.asarray(labels)))
        self._labelled += count


def _classes(outputs: Sequence[Array]) -> int | None:
    """The number of classes of a classifier; ``None`` for any other model."""
    first = outputs[0]
    if len(outputs) != 1 or first.ndim != 2 or first.shape[1] < 2:
        return None
    return int(first.shape[1]) if np.issubdtype(first.dtype, np.floating) else None


def _flat(array: Array) -> NDArray[np.float64]:
    array = np.ascontiguousarray(array).reshape(-1)
    if np.iscomplexobj(array):
        return np.concatenate([array.real, array.imag]).astype(np.float64)
    return array.astype(np.float64)
