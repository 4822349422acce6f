"""The events of a running pipeline, for the CLI, a log or any other observer.

Each stage calls an ``Emit`` with these events, so that the pipeline needs no terminal code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias


@dataclass(frozen=True)
class StageStarted:
    """A stage begins; ``detail`` names the file, model or GPU that the stage works on."""

    stage: str
    detail: str = ""


@dataclass(frozen=True)
class StageProgress:
    """A stage has made progress; ``fraction`` is 0 to 1, or ``None`` if the total is unknown."""

    stage: str
    detail: str
    fraction: float | None = None


@dataclass(frozen=True)
class StageFinished:
    """A stage is done after ``seconds``; ``summary`` names its result.

    ``peak_bytes`` is the greatest resident memory during the stage; ``None`` where it is unknown.
    """

    stage: str
    summary: str
    seconds: float
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Note:
    """A sentence for the user; ``level`` is ``"info"`` or ``"warning"``."""

    text: str
    level: str = "info"


Event: TypeAlias = StageStarted | StageProgress | StageFinished | Note
Emit: TypeAlias = Callable[[Event], None]


def part_of(emit: Emit, done: float, share: float) -> Emit:
    """An ``Emit`` for one part of a stage, which rescales the part's progress to the stage's.

    Args:
        emit: the ``Emit`` of the stage.
        done: the fraction of the stage (0 to 1) before the part.
        share: the fraction of the stage that the part takes.
    """

    def rescaled(event: Event) -> None:
        if isinstance(event, StageProgress) and event.fraction is not None:
            event = replace(event, fraction=done + share * event.fraction)
        emit(event)

    return rescaled


def ignore(event: Event) -> None:
    """The ``Emit`` that drops all events."""
