"""How lowering reports its progress to the caller."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A callback: receives the step in a few words, and its finished share (0 to 1) if known."""

    def __call__(self, detail: str, done: float | None = None) -> None: ...


def silent(detail: str, done: float | None = None) -> None:
    """A :class:`Progress` that ignores every report."""
