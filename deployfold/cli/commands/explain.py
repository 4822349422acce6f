"""Explain an exit code or the words of a message, and say what to do.

Examples:
  deployfold explain 6
  deployfold explain "needs data to calibrate on"
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from deployfold.cli.in_session import in_session
from deployfold.cli.session import Session
from deployfold.errors import UsageError

if TYPE_CHECKING:
    from deployfold.cli.explanations import Entry, Section


@in_session("json")
def explain(
    run: Session,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="CODE|MESSAGE",
            help="An exit code, or an error message or a part of it.",
            show_default=False,
        ),
    ],
) -> None:
    """The command ``deployfold explain``."""
    from deployfold.cli.explanations import find_code, find_message, sections

    asked = " ".join(words)
    if asked.strip().isdecimal():
        section = find_code(int(asked))
        if section is None:
            codes = ", ".join(str(one.code) for one in sections())
            raise UsageError(
                f"deployfold never ends with exit code {asked}.", hint=f"The codes are {codes}."
            )
        _show(run, [(section, section.entries)])
        return
    found = find_message(asked)
    if not found:
        raise UsageError(
            f"No explanation contains the words {asked!r}.",
            hint="Give the exit code instead, such as deployfold explain 6.",
        )
    _show(run, [(section, (entry,)) for section, entry in found])


def _show(run: Session, found: list[tuple[Section, tuple[Entry, ...]]]) -> None:
    if run.json:
        run.write_json(
            [
                {"code": one.code, "title": one.title, "about": one.about}
                | {"messages": [asdict(entry) for entry in entries]}
                for one, entries in found
            ]
        )
        return
    from rich.padding import Padding
    from rich.text import Text

    for section, entries in found:
        run.out.print(Text(f"Exit code {section.code}: {section.title}", style="bold"))
        if section.about:
            run.out.print(Text(section.about))
        for entry in entries:
            run.out.print()
            run.out.print(Text(f"«{entry.message}»", style="cyan"))
            run.out.print(Padding(Text(entry.advice), (0, 0, 0, 2)))
