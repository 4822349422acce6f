"""Compares the outputs of a lowered model with those of the fp32 model, on the same samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from deployfold.config.task_metrics import MetricLimit
from deployfold.data.labels import Label
from deployfold.exporting.session import open_session, run_session
from deployfold.exporting.split import run_tail
from deployfold.runtimes.tail_name import tail_name
from deployfold.scoring import Scoring, labelled
from deployfold.util.arrays import Array
from deployfold.util.numerics import max_abs_diff, sqnr_db

from .estimates import divergence_of, likely_agreement, likely_sqnr_db
from .output_parts import output_parts
from .result import OutputMeasure


@dataclass(frozen=True)
class Measured:
    """The accuracy of a lowered model against fp32 on the same samples.

    Attributes:
        sqnr_db: signal-to-quantisation-noise ratio (dB) over all samples, of the worst output or
            part of an output.
        noise: noise power over signal power of that output.
        agreement: share of samples whose top-1 class is the same as in fp32; ``None`` without
            classes.
        divergence: mean Kullback-Leibler divergence of the class probabilities from those in
            fp32, in nats; ``None`` for a model that is not a classifier.
        accuracy, reference_accuracy: share of right classes, lowered and in fp32; ``None`` without
            labels.
        reshaped: outputs left out of the comparison, because their shape depends on values and
            differs; an example is the number of boxes after a NonMaxSuppression.
        equal: the share of integers that are those of fp32, by the name of each integer or Boolean
            output with a share below 1. An index near to the right one is as wrong as any other, so
            that the SQNR says nothing.
        lost: whether an output is infinite or NaN where the fp32 model's output is finite.
        outputs: every compared output; an output that joins several quantities is listed part by
            part.
        scores: the numbers of the task metrics by name; empty without any.
        missed: the limits of the task metrics that these numbers miss, with the fp32 model's.
        likely_sqnr_db: the SQNR (dB) that other samples keep in 19 of 20 cases; ``None`` with fewer
            than two samples.
        likely_agreement: the same for the agreement.
        pictures: the number of pictures that the samples are of.
    """

    sqnr_db: float
    noise: float
    agreement: float | None
    divergence: float | None
    accuracy: float | None
    reference_accuracy: float | None
    max_abs_diff: float
    likely_agreement: float | None = None
    likely_sqnr_db: float | None = None
    pictures: int = 0
    reshaped: tuple[str, ...] = ()
    equal: Mapping[str, float] = field(default_factory=dict)
    lost: bool = False
    outputs: tuple[OutputMeasure, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    missed: tuple[MetricLimit, ...] = ()

    def not_counted(self, title: str) -> tuple[str, ...]:
        """Notes about outputs that an SQNR cannot judge; ``title`` is the lowered precision."""
        notes = tuple(
            f"{name}: {100 * share:.4g} % of its integers are the same in {title} as in fp32"
            for name, share in self.equal.items()
        )
        if not self.reshaped:
            return notes
        return (
            *notes,
            f"{', '.join(self.reshaped)}: another shape in {title} than in fp32, since it depends "
            "on values; left out of the accuracy",
        )


class Measurer:
    """Compares lowered models with one fp32 model; the fp32 model runs once.

    Args:
        labels: the label of every sample; the samples of a batch follow one another.
        scoring: task metrics of the model's outputs, through the tail if ``reference`` is a head.
        pictures: the number of the picture of each feed, for the likely SQNR.
        model: ``reference`` in memory, which spares a second reading; it may get more shapes.
        outputs: the outputs of ``reference`` on the feeds by name, which spare its run where every
            output is among them.
        optimize: let ONNX Runtime fuse nodes of ``reference``, which is twice as fast. Its sums
            then come in another order, a difference far below the rounding to 8 bits.
    """

    def __init__(
        self,
        reference: Path,
        feeds: Sequence[Mapping[str, Array]],
        labels: Sequence[Label] | None,
        scoring: Scoring | None = None,
        *,
        model: ir.Model | None = None,
        pictures: Sequence[int] = (),
        outputs: Mapping[str, Sequence[Array]] = MappingProxyType({}),
        optimize: bool = False,
    ) -> None:
        self.feeds = feeds
        self._pictures = pictures
        graph = ir.load(reference) if model is None else model
        self._parts = output_parts(graph)
        self._names = [str(value.name) for value in graph.graph.outputs]
        if all(name in outputs for name in self._names):
            self._expected = [list(outputs[name]) for name in self._names]
        else:
            self._expected = self._run(open_session(reference, optimize=optimize))
        classes = labels if labels and all(isinstance(one, int) for one in labels) else None
        self._labels = None if classes is None else np.asarray(classes)
        self._all_labels = labels
        self._scoring = scoring
        self._tail: ort.InferenceSession | None = None
        tail = tail_name(reference.name)
        if scoring is not None:
            self._tail = open_session(reference.with_name(tail)) if tail else None
            self._whole = [self._finish(*one) for one in self._by_feed(self._expected)]
            self._own = self._score(scoring, self._whole)
        floats = [expected[0].dtype.kind == "f" for expected in self._expected]
        # Integer outputs, such as class numbers, count only if the model has no float output.
        self._compared = floats if any(floats) else [True] * len(floats)

    def measure(self, model: Path, *, optimize: bool = False) -> Measured:
        """Run ``model`` on the samples, and compare.

        Args:
            optimize: let ONNX Runtime fuse nodes, which is twice as fast. Sums in another order
                round some values otherwise, so a figure for the report is measured without.

        Raises:
            ExportError: ONNX Runtime cannot run the model.
        """
        return self.compare(self._run(open_session(model, optimize=optimize)))

    def compare(self, actual: Sequence[Sequence[Array]]) -> Measured:
        """Compare outputs that the caller computed: for each output, one array a feed."""
        actual = [[_as_array(value) for value in output] for output in actual]
        pairs, reshaped = [], []
        outputs: list[OutputMeasure] = []
        likely_db: list[float] = []
        equal: dict[str, float] = {}
        for name, wanted, expected, found in zip(
            self._names, self._compared, self._expected, actual, strict=True
        ):
            same_shape = all(a.shape == b.shape for a, b in zip(expected, found, strict=True))
            if same_shape and expected[0].dtype.kind in "iub":
                equal[name] = _share_equal(expected, found)
            if same_shape and not wanted:
                continue
            if same_shape:
                pairs.append((expected, found))
                outputs += self._measures(name, expected, found)
                likely_db.append(likely_sqnr_db(expected, found, self._pictures))
            else:
                reshaped.append(name)
        worst = min((one.sqnr_db for one in outputs), default=math.inf)
        agreement = likely = divergence = accuracy = right = None
        first = pairs[0][0][0] if len(pairs) == 1 else np.zeros(0)
        if first.dtype.kind == "f" and first.ndim == 2 and first.shape[1] > 1:  # of classes
            scores, given = (np.concatenate(part).astype(np.float64) for part in pairs[0])
            before, after = scores.argmax(1), given.argmax(1)
            agreement = float((before == after).mean())
            likely = likely_agreement(scores, given, self._of_rows(pairs[0][0]))
            divergence = divergence_of(scores, given)
            if self._labels is not None and len(self._labels) == len(before):
                accuracy = float((after == self._labels).mean())
                right = float((before == self._labels).mean())
        task: Mapping[str, float] = {}
        missed: tuple[MetricLimit, ...] = ()
        if self._scoring is not None:
            whole = [self._finish(*one) for one in self._by_feed(actual)]
            task = self._score(self._scoring, whole)
            missed = self._scoring.missed(task, self._own)
        return Measured(
            scores=task,
            missed=missed,
            sqnr_db=worst,
            noise=noise_of(worst),
            agreement=agreement,
            divergence=divergence,
            accuracy=accuracy,
            reference_accuracy=right,
            max_abs_diff=max((max_abs_diff(e, f) for e, f in pairs), default=0.0),
            likely_agreement=likely,
            likely_sqnr_db=min(likely_db, default=None) if len(self.feeds) > 1 else None,
            pictures=len(set(self._pictures or range(len(self.feeds)))),
            reshaped=tuple(reshaped),
            equal={name: share for name, share in equal.items() if share < 1.0},
            lost=any(_is_lost(e, f) for pair in pairs for e, f in zip(*pair, strict=True)),
            outputs=tuple(outputs),
        )

    def _measures(
        self, name: str, expected: Sequence[Array], found: Sequence[Array]
    ) -> list[OutputMeasure]:
        """Measure one output, or each of its parts, over all samples."""
        whole = OutputMeasure(
            name, expected[0].shape, sqnr_db(expected, found), max_abs_diff(expected, found)
        )
        parts = []
        for part in self._parts.get(name, ()):
            pair = [[part.of(one) for one in arrays] for arrays in (expected, found)]
            parts.append(
                OutputMeasure(part.label, pair[0][0].shape, sqnr_db(*pair), max_abs_diff(*pair))
            )
        return parts or [whole]

    def _score(self, scoring: Scoring, outputs: Sequence[Sequence[Array]]) -> dict[str, float]:
        """The task metrics of the outputs of every feed, next to the fp32 model's."""
        scores = scoring.begin()
        pairs = labelled(list(zip(outputs, self._whole, strict=True)), self._all_labels)
        for (own, reference), labels in pairs:
            scores.add(own, labels, reference)
        return scores.result()

    def _of_rows(self, feeds: Sequence[Array]) -> Sequence[int]:
        """The picture of each row of the outputs: the samples of a feed count as of one picture."""
        pictures = self._pictures or range(len(feeds))
        return [one for one, rows in zip(pictures, feeds, strict=True) for _ in range(len(rows))]

    def _by_feed(
        self, outputs: Sequence[Sequence[Array]]
    ) -> Iterator[tuple[Mapping[str, Array], tuple[Array, ...]]]:
        return zip(self.feeds, zip(*outputs, strict=True), strict=True)

    def _finish(self, feed: Mapping[str, Array], outputs: Sequence[Array]) -> Sequence[Array]:
        """The outputs of the whole model, of those of a head."""
        if self._tail is None:
            return outputs
        return run_tail(self._tail, feed, dict(zip(self._names, outputs, strict=True)))

    def _run(self, session: ort.InferenceSession) -> list[list[Array]]:
        runs = [run_session(session, feed) for feed in self.feeds]
        return [[_as_array(value) for value in output] for output in zip(*runs, strict=True)]


def noise_of(decibels: float) -> float:
    """Noise power over signal power for an SQNR in dB; infinite if a float would overflow."""
    return 10.0 ** (-decibels / 10.0) if decibels > -3000.0 else math.inf


def _as_array(value: Array | Sequence[Array]) -> Array:
    """Flatten a sequence of tensors into one array; return a tensor unchanged."""
    if isinstance(value, list | tuple):
        parts = [np.ravel(part) for part in value]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)
    return np.asarray(value)


def _share_equal(expected: Sequence[Array], found: Sequence[Array]) -> float:
    count = sum(one.size for one in expected)
    same = sum(int((a == b).sum()) for a, b in zip(expected, found, strict=True))
    return same / count if count else 1.0


def _is_lost(expected: Array, found: Array) -> bool:
    if expected.dtype.kind != "f":
        return False
    return bool((np.isfinite(expected) & ~np.isfinite(found)).any())
