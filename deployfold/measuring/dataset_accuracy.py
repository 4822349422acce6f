"""Measures accuracy over many inputs: runs every row on every feed and compares with one row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from deployfold.data.labels import Label
from deployfold.errors import DeployfoldError, MeasureError
from deployfold.events import Emit, StageProgress, ignore
from deployfold.reporting.row import Accuracy
from deployfold.runtimes.failures import summary
from deployfold.runtimes.inputs import batch_of
from deployfold.runtimes.protocol import Inputs, Runner
from deployfold.scoring import Scores, Scoring
from deployfold.util.arrays import Array

from .accuracy import Comparison
from .shared_runners import shared


@dataclass
class _Row:
    """The results of one row so far."""

    comparison: Comparison = field(default_factory=Comparison)
    scores: Scores | None = None
    failed: str = ""
    not_compared: str = ""
    not_scored: str = ""


@dataclass(frozen=True, eq=False)
class Compared:
    """The results of all rows, by row name.

    Attributes:
        accuracy: the accuracy, or the reason why there is none. The baseline is included only with
            labels of classes, for its own accuracy.
        scores: the numbers of the task metrics, or the reason why there are none, the baseline
            included; empty without task metrics.
    """

    accuracy: dict[str, Accuracy | str]
    scores: dict[str, dict[str, float] | str]


def compare_over(
    runners: Mapping[str, Runner],
    feeds: Sequence[Inputs],
    *,
    labels: Sequence[Label] | None = None,
    scoring: Scoring | None = None,
    emit: Emit = ignore,
) -> Compared:
    """Run every row on every feed and compare it with the first row's outputs on the same feed.

    Args:
        runners: the runners by row name; each is loaded once, and closed at the end.
        feeds: the inputs of one inference each; the first axis of the first input is the batch.
        labels: the label of every sample of every feed, in order.
        scoring: the task metrics of every row. With them, outputs of other shapes than the
            baseline's cost a row its comparison alone.
        emit: receives a :class:`StageProgress` of stage ``"measure"`` for each feed.

    Raises:
        MeasureError: there is nothing to run, or the number of labels is not that of the samples.
    """
    if not runners or not feeds:
        raise MeasureError("There is nothing to compare.")
    base = next(iter(runners))
    split = _split(labels, feeds)
    classes = labels is not None and all(isinstance(one, int) for one in labels)
    rows = {name: _Row() for name in runners}
    with shared(runners) as kept:
        for name, row in rows.items():
            try:
                row.scores = scoring.begin() if scoring is not None else None
                kept[name].load()
            except Exception as error:
                row.failed = summary(error)
        for number, (feed, known) in enumerate(zip(feeds, split, strict=True), 1):
            emit(StageProgress("measure", f"accuracy, input {number}", number / len(feeds)))
            reference: Sequence[Array] = ()
            for name, row in rows.items():
                if row.failed or (rows[base].failed and name != base):
                    continue
                try:
                    outputs = kept[name].run(feed)
                except Exception as error:
                    row.failed = summary(error)
                    continue
                reference = outputs if name == base else reference
                _add(row, reference, outputs, known, classes=classes, samples=batch_of(feed))
    found = Compared({}, {})
    for name, row in rows.items():
        reason = row.failed
        if name != base and rows[base].failed:
            reason = f"the baseline failed: {rows[base].failed}"
        if name != base or (classes and not (scoring and row.not_compared)):
            found.accuracy[name] = reason or row.not_compared or row.comparison.result()
        if row.scores is not None:
            found.scores[name] = reason or row.not_scored or _result(row.scores)
    if rows[base].failed and base in found.accuracy:
        found.accuracy[base] = f"the baseline failed: {rows[base].failed}"
    return found


def _add(
    row: _Row,
    reference: Sequence[Array],
    outputs: Sequence[Array],
    known: Sequence[Label] | None,
    *,
    classes: bool,
    samples: int,
) -> None:
    """Add one inference to the comparison and to the task metrics; each may fail alone."""
    if not row.not_compared:
        own = [one for one in known if isinstance(one, int)] if known and classes else None
        try:
            row.comparison.add(reference, outputs, own, samples)
        except Exception as error:
            row.not_compared = summary(error)
            if row.scores is None:
                row.failed = row.not_compared
    if row.scores is not None and not row.not_scored:
        try:
            row.scores.add(outputs, known or (), reference)
        except DeployfoldError as error:
            row.not_scored = error.message


def _result(scores: Scores) -> dict[str, float] | str:
    try:
        return scores.result()
    except DeployfoldError as error:
        return error.message


def _split(labels: Sequence[Label] | None, feeds: Sequence[Inputs]) -> list[Sequence[Label] | None]:
    if labels is None:
        return [None] * len(feeds)
    counts = [batch_of(feed) for feed in feeds]
    if len(labels) != sum(counts):
        raise MeasureError(f"There are {len(labels)} labels for {sum(counts)} samples.")
    parts: list[Sequence[Label] | None] = []
    start = 0
    for count in counts:
        parts.append(labels[start : start + count])
        start += count
    return parts
