"""How lowering reports its progress to the caller."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A callback: receives the step in a few words, and its finished share (0 to 1) if known."""

    def __call__(self, detail: str, done: float | None = None) -> None: ...


def silent(detail: str, done: float | None = None) -> None:
    """A :class:`Progress` that ignores every report."""


def part_of(progress: Progress, before: float, share: float) -> Progress:
    """A :class:`Progress` for one part of the work, which rescales the part's share to the whole.

    Args:
        progress: the callback for the whole.
        before: the share of the whole (0 to 1) in front of the part.
        share: the share of the whole that the part takes; an unknown share of it counts as none.
    """

    def rescaled(detail: str, done: float | None = None) -> None:
        progress(detail, before + share * (done or 0.0))

    return rescaled


def unbounded(progress: Progress) -> Progress:
    """A :class:`Progress` for work that repeats an unknown number of times; it names steps only."""

    def named(detail: str, done: float | None = None) -> None:
        progress(detail)

    return named
