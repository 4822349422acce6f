"""Scores several models by the task metrics, on the same samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from deployfold.config.task_metrics import MetricLimit
from deployfold.data.boxes import Boxes
from deployfold.data.labels import Label
from deployfold.errors import UsageError
from deployfold.util.arrays import Array

from .metric import Tally, TaskMetric

_Feed = TypeVar("_Feed")


@dataclass(frozen=True)
class Scoring:
    """The metrics, and the limits that lowered models have to keep.

    Attributes:
        limits: of ``--min-metric``.
    """

    metrics: tuple[TaskMetric, ...]
    limits: tuple[MetricLimit, ...] = ()

    def begin(self) -> Scores:
        """New tallies, for one model."""
        return Scores([one.begin() for one in self.metrics])

    def missed(
        self, scores: Mapping[str, float], original: Mapping[str, float]
    ) -> tuple[MetricLimit, ...]:
        """The limits that a model's numbers miss; NaN and a missing number miss."""
        return tuple(
            limit
            for limit in self.limits
            if not scores.get(limit.name, float("nan"))
            >= limit.least(original.get(limit.name, float("nan")))
        )

    def check(self, labels: Sequence[Label] | None) -> None:
        """Refuse labels that the metrics do not take, and limits of other names.

        Raises:
            UsageError: labels are missing or of another kind; a limit names no metric.
        """
        kind = None if labels is None else _KINDS.get(type(labels[0]), "masks")
        for one in self.metrics:
            if one.takes in ("any", "none") or one.takes == kind:
                continue
            given = "there are no labels" if kind is None else f"the labels are {kind}"
            raise UsageError(
                f"--metric {one.name} takes labels of {one.takes}, but {given}.",
                hint=_HINTS[one.takes],
            )
        keys = [one.keys for one in self.metrics]
        known = [name for names in keys if names is not None for name in names]
        for limit in self.limits:
            if None not in keys and limit.name not in known:
                raise UsageError(
                    f"--min-metric {limit}: no metric of this build has that name.",
                    hint=f"The names are {', '.join(known)}.",
                )


class Scores:
    """The tallies of one model."""

    def __init__(self, tallies: Sequence[Tally]) -> None:
        self._tallies = tallies

    def add(
        self, outputs: Sequence[Array], labels: Sequence[Label], reference: Sequence[Array]
    ) -> None:
        """Add one inference; see :class:`~.metric.Tally`."""
        for tally in self._tallies:
            tally.add(outputs, labels, reference)

    def result(self) -> dict[str, float]:
        """The numbers of all metrics by name; ``UsageError`` if a function of the user failed."""
        return {name: value for tally in self._tallies for name, value in tally.result().items()}


def labelled(
    feeds: Sequence[_Feed], labels: Sequence[Label] | None
) -> Iterator[tuple[_Feed, Sequence[Label]]]:
    """Each feed with the labels of its samples; every feed has the same number of samples."""
    batch = 0 if labels is None else len(labels) // max(len(feeds), 1)
    for index, feed in enumerate(feeds):
        yield feed, [] if labels is None else labels[index * batch : (index + 1) * batch]


@dataclass(frozen=True)
class ScoredData:
    """The samples that the task metrics of every row are measured on.

    Attributes:
        feeds: the inputs of one inference each.
        labels: the label of every sample; ``None`` without labels.
        origin: the source in one phrase.
    """

    scoring: Scoring
    feeds: Sequence[Mapping[str, Array]]
    labels: tuple[Label, ...] | None
    origin: str = ""

    def pairs(self) -> Iterator[tuple[Mapping[str, Array], Sequence[Label]]]:
        """Each feed with the labels of its samples."""
        return labelled(self.feeds, self.labels)


_KINDS: dict[type, str] = {int: "classes", Boxes: "boxes"}
_HINTS = {
    "classes": "Give a class for each sample with --labels: a CSV, class folders, or an .npy.",
    "masks": "Give a folder of PNG masks, or an .npy of (samples, height, width), with --labels.",
    "boxes": "Give a JSON file in COCO's format with --labels.",
}
