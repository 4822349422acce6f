"""What lowering says of its progress."""

from __future__ import annotations

from typing import Protocol


class Say(Protocol):
    """Hears what is being done in a few words, and what share of that is over (0 to 1)."""

    def __call__(self, detail: str, done: float | None = None) -> None: ...


def silent(detail: str, done: float | None = None) -> None:
    """A :class:`Say` of a caller that does not want to know."""
