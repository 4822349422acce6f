"""Measures accuracy over many inputs: runs every row on every feed and compares with one row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deployfold.errors import MeasureError
from deployfold.events import Emit, StageProgress, ignore
from deployfold.runtimes.failures import summary
from deployfold.runtimes.protocol import Inputs, Runner

from .accuracy import Accuracy, Comparison
from .shared_runners import shared


def compare_over(
    runners: Mapping[str, Runner],
    feeds: Sequence[Inputs],
    *,
    labels: Sequence[int] | None = None,
    baseline: str | None = None,
    emit: Emit = ignore,
) -> dict[str, Accuracy | str]:
    """Run every row on every feed and compare it with the baseline's outputs on the same feed.

    Args:
        runners: the runners by row name; each is loaded once, and closed at the end.
        feeds: the inputs of one inference each; the first axis of the first input is the batch.
        labels: the class of every sample of every feed, in order.
        baseline: the row to compare the others with; ``None`` for the first row.
        emit: receives a :class:`StageProgress` of stage ``"measure"`` for each feed.

    Returns:
        The accuracy, or the reason why there is none, by row name. The baseline is included only
        with labels, for its own accuracy.

    Raises:
        MeasureError: there is nothing to run, or the number of labels is not that of the samples.
    """
    if not runners or not feeds:
        raise MeasureError("There is nothing to compare.")
    base = next(iter(runners)) if baseline is None else baseline
    split = _split(labels, feeds)
    comparisons = {name: Comparison() for name in runners if name != base or labels is not None}
    failed: dict[str, str] = {}
    with shared(runners) as kept:
        for name in (base, *comparisons):
            try:
                kept[name].load()
            except Exception as error:
                failed[name] = summary(error)
        for number, (feed, known) in enumerate(zip(feeds, split, strict=True), 1):
            emit(StageProgress("measure", f"accuracy, input {number}", number / len(feeds)))
            if base in failed:
                break
            try:
                reference = kept[base].run(feed)
            except Exception as error:
                failed[base] = summary(error)
                break
            for name, comparison in comparisons.items():
                if name not in failed:
                    try:
                        outputs = reference if name == base else kept[name].run(feed)
                        comparison.add(reference, outputs, known)
                    except Exception as error:
                        failed[name] = summary(error)
    if base in failed:
        reason = f"the baseline failed: {failed[base]}"
        return dict.fromkeys(comparisons, reason)
    return {name: failed.get(name) or one.result() for name, one in comparisons.items()}


def batch_of(inputs: Inputs) -> int:
    """The number of samples in one feed: the first axis of the first input; 1 for a scalar."""
    shape = tuple(inputs[0].shape) if inputs else ()
    return int(shape[0]) if shape else 1


def _split(labels: Sequence[int] | None, feeds: Sequence[Inputs]) -> list[Sequence[int] | None]:
    if labels is None:
        return [None] * len(feeds)
    counts = [batch_of(feed) for feed in feeds]
    if len(labels) != sum(counts):
        raise MeasureError(f"There are {len(labels)} labels for {sum(counts)} samples.")
    parts: list[Sequence[int] | None] = []
    start = 0
    for count in counts:
        parts.append(labels[start : start + count])
        start += count
    return parts
