"""The comparison of two reports: every figure of both, with its verdict."""

from __future__ import annotations

import math
from typing import Literal

from deployfold.reporting.fields import Frozen, Number
from deployfold.reporting.report import ThresholdResult

Verdict = Literal["regression", "worse", "better", "same", "unjudged", "new"]


class Change(Frozen):
    """One metric of one row, in the old report and in the new.

    Attributes:
        old, new: in the metric's own unit; ``None`` where it was not measured.
        verdict: ``worse`` and ``better`` moved beyond noise and within the tolerance, ``same`` did
            not move, ``unjudged`` cannot be compared, ``new`` is in the new report alone.
        limit: the tolerance in words; ``None`` where any change is tolerated.
        reason: why it is unjudged, or a regression without two numbers.
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
        """new / old - 1, where both are finite numbers and the old one is not 0."""
        if self.old is None or self.new is None or not self.old:
            return None
        if not math.isfinite(self.old) or not math.isfinite(self.new):
            return None
        return self.new / self.old - 1


class Changes(Frozen):
    """The comparison of two reports.

    Attributes:
        differences: of machine, threads, inputs and libraries, in sentences.
        rows_gone, rows_new: names of rows that only one of the two reports has.
        limits: absolute limits held against the new report.
        strict: a figure that has a limit and cannot be judged counts as a failure.
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
        """Figures that got worse than their tolerance allows."""
        return tuple(change for change in self.changes if change.verdict == "regression")

    @property
    def moved(self) -> tuple[Change, ...]:
        """All figures but those that stayed the same or cannot be judged."""
        return tuple(one for one in self.changes if one.verdict not in ("same", "unjudged"))

    @property
    def unjudged(self) -> tuple[Change, ...]:
        """Figures that noise, the machine or the inputs forbid to compare."""
        return tuple(change for change in self.changes if change.verdict == "unjudged")

    @property
    def failing_unjudged(self) -> tuple[Change, ...]:
        """Of the unjudged figures those that fail: with ``strict``, all that have a limit."""
        return tuple(one for one in self.unjudged if self.strict and one.limit is not None)

    @property
    def passed(self) -> bool:
        """No regression, every absolute limit is kept, and nothing unjudged fails."""
        failing = (*self.regressions, *self.failing_unjudged)
        return not failing and all(limit.passed for limit in self.limits)

    def to_json(self) -> str:
        """The JSON text, indented, with a final newline."""
        return self.model_dump_json(indent=2) + "\n"
