"""The records of a comparison of two reports: every figure of both, with a verdict."""

from __future__ import annotations

import math
from typing import Literal

from deployfold.reporting.fields import Frozen, Number
from deployfold.reporting.report import ThresholdResult

Verdict = Literal["regression", "worse", "better", "same", "unjudged", "new"]


class Change(Frozen):
    """One metric of one row, in the old and in the new report.

    Attributes:
        row, title: name and title of the row.
        metric: the metric's key.
        old, new: the values in the metric's unit; ``None`` if not measured.
        verdict: ``worse`` or ``better``: the value moved beyond noise and within the tolerance;
            ``regression``: it got worse than the tolerance allows; ``same``: it did not move;
            ``unjudged``: the values cannot be compared; ``new``: only the new report has it.
        limit: the tolerance in words; ``None`` if any change is tolerated.
        reason: why the figure is unjudged, or is a regression without two values.
    """

    row: str
    title: str
    metric: str
    old: Number | None = None
    new: Number | None = None
    verdict: Verdict
    limit: str | None = None
    reason: str | None = None

    @property
    def relative(self) -> float | None:
        """new / old - 1; ``None`` unless both are finite numbers and the old one is not 0."""
        if self.old is None or self.new is None or not self.old:
            return None
        if not math.isfinite(self.old) or not math.isfinite(self.new):
            return None
        return self.new / self.old - 1


class Changes(Frozen):
    """The comparison of two reports.

    Attributes:
        differences: sentences on differences of machine, threads, inputs and libraries.
        changes: every metric of every row.
        rows_gone, rows_new: names of rows that only the old or only the new report has.
        limits: the results of absolute limits on the new report.
        strict: whether an unjudged figure with a limit counts as a failure.
    """

    old: str
    new: str
    differences: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    rows_gone: tuple[str, ...] = ()
    rows_new: tuple[str, ...] = ()
    limits: tuple[ThresholdResult, ...] = ()
    strict: bool = False

    @property
    def regressions(self) -> tuple[Change, ...]:
        """The figures that got worse than their tolerance allows."""
        return tuple(change for change in self.changes if change.verdict == "regression")

    @property
    def moved(self) -> tuple[Change, ...]:
        """All figures except those that stayed the same or are unjudged."""
        return tuple(one for one in self.changes if one.verdict not in ("same", "unjudged"))

    @property
    def unjudged(self) -> tuple[Change, ...]:
        """The figures that cannot be compared because of noise, the machine or the inputs."""
        return tuple(change for change in self.changes if change.verdict == "unjudged")

    @property
    def failing_unjudged(self) -> tuple[Change, ...]:
        """The unjudged figures that count as failures: with ``strict``, all with a limit."""
        return tuple(one for one in self.unjudged if self.strict and one.limit is not None)

    @property
    def passed(self) -> bool:
        """Whether there is no regression, no missed limit and no failing unjudged figure."""
        failing = (*self.regressions, *self.failing_unjudged)
        return not failing and all(limit.passed for limit in self.limits)
