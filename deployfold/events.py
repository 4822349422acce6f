"""What a running pipeline says to whoever watches it: the CLI, a log, or nobody.

The pipeline knows nothing of rich or of terminals; it calls an ``Emit`` with one of these events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias


@dataclass(frozen=True)
class StageStarted:
    """A stage begins; ``detail`` says what it works on."""

    stage: str
    detail: str = ""


@dataclass(frozen=True)
class StageProgress:
    """A stage got further: ``fraction`` in 0..1, or ``None`` when the total is unknown."""

    stage: str
    detail: str
    fraction: float | None = None


@dataclass(frozen=True)
class StageFinished:
    """A stage is done after ``seconds``; ``summary`` says what came of it.

    ``peak_bytes`` is the greatest resident memory meanwhile; ``None`` where it is not known.
    """

    stage: str
    summary: str
    seconds: float
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Note:
    """Something the user should know; ``level`` is ``"info"`` or ``"warning"``."""

    text: str
    level: str = "info"


Event: TypeAlias = StageStarted | StageProgress | StageFinished | Note
Emit: TypeAlias = Callable[[Event], None]


def part_of(emit: Emit, done: float, share: float) -> Emit:
    """An ``Emit`` for a part of a stage, which begins when ``done`` of it is over (0 to 1)."""

    def placed(event: Event) -> None:
        if isinstance(event, StageProgress) and event.fraction is not None:
            event = replace(event, fraction=done + share * event.fraction)
        emit(event)

    return placed


def ignore(event: Event) -> None:
    """The ``Emit`` of a caller that does not want to know."""
