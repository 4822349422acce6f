"""Shows the progress of a pipeline: a live line on a terminal, else one plain line per stage."""

from __future__ import annotations

import math
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from deployfold.events import Event, Note, StageFinished, StageProgress, StageStarted
from deployfold.reporting.text import clean, size

_WIDTH = 11  # of the longest stage name, so that the lines align
_NARROWEST = 20
"""Columns of a text beside its heading, however narrow the terminal is."""
_ROOMY = 100
"""Columns of a terminal from which the bar is long."""


def _shrinking() -> Column:
    """The column that gives way, so that a stage takes one line on a terminal of any width."""
    return Column(no_wrap=True, overflow="ellipsis", ratio=1)


def _whole() -> Column:
    """A column that keeps its width."""
    return Column(no_wrap=True)


class _Remaining(ProgressColumn):
    """The remaining time of the task, if its progress is known."""

    def render(self, task: Task) -> Text:
        seconds = task.time_remaining
        if task.total is None or not seconds:
            return Text("")
        whole = math.ceil(seconds)
        return Text(
            f"about {math.ceil(whole / 60)} min left" if whole > 99 else f"about {whole} s left"
        )


class Progress:
    """Shows :mod:`deployfold.events` on a console; use it as a context manager."""

    def __init__(self, console: Console, *, verbose: bool = False, quiet: bool = False) -> None:
        self._console = console
        self._verbose = verbose
        self._quiet = quiet
        self._live = RichProgress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.fields[stage]:<11}", style="bold"),
            TextColumn("{task.description}", markup=False, table_column=_shrinking()),
            BarColumn(bar_width=20 if console.width >= _ROOMY else 8),
            TimeElapsedColumn(_whole()),
            _Remaining(_whole()),
            console=console,
            transient=True,
            expand=True,
            disable=quiet or not console.is_terminal,
        )
        self._task: int | None = None

    def __enter__(self) -> Progress:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def show(self, event: Event) -> None:
        """Show one event."""
        if self._quiet:
            return
        if isinstance(event, StageStarted):
            self._end_task()
            self._task = self._live.add_task(clean(event.detail), stage=event.stage, total=None)
        elif isinstance(event, StageProgress):
            if self._task is not None:
                total = None if event.fraction is None else 1.0
                self._live.update(
                    self._task,  # type: ignore[arg-type]
                    description=clean(event.detail),
                    total=total,
                    completed=event.fraction or 0.0,
                )
        elif isinstance(event, StageFinished):
            self._end_task()
            peak = event.peak_bytes if self._verbose else None
            memory = "" if peak is None else f", peak {size(peak)}"
            self._print(
                Text.assemble(("✓ ", "green"), (f"{event.stage:<{_WIDTH}} ", "bold")),
                Text.assemble(clean(event.summary), (f"  {event.seconds:.1f} s{memory}", "dim")),
            )
        elif isinstance(event, Note):
            self._show_note(event)

    def _show_note(self, note: Note) -> None:
        if note.level == "warning":
            self._print(Text("! ", "yellow"), Text(clean(note.text)))
        elif self._verbose:
            self._print(Text("  "), Text(clean(note.text), "dim"))

    def _print(self, head: Text, body: Text) -> None:
        """Print a line; on a terminal, what does not fit goes below the beginning of ``body``."""
        if self._console.is_terminal:
            indent = head.cell_len
            lines = body.wrap(self._console, max(_NARROWEST, self._console.width - indent))
            body = Text("\n" + " " * indent).join(lines)
        self._live.console.print(head + body, soft_wrap=True)

    def _end_task(self) -> None:
        if self._task is not None:
            self._live.remove_task(self._task)  # type: ignore[arg-type]
            self._live.refresh()  # otherwise the next output would draw the line again
            self._task = None
