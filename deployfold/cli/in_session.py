"""Adds the common options to a command, and runs the command's body in a session."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from deployfold.config.option_field import Panel

from .session import session

Command = TypeVar("Command", bound=Callable[..., None])


def _flag(help: str, *names: str) -> Any:
    return Annotated[bool, typer.Option(*names, help=help, rich_help_panel=Panel.OUTPUT)]


FLAGS = {
    "json": _flag("Print JSON on stdout; progress and notes go to stderr.", "--json"),
    "quiet": _flag("Print errors only; with --json, the JSON too.", "--quiet", "-q"),
    "verbose": _flag("Print more about every stage.", "--verbose", "-v"),
    "no_color": _flag("No colours; the environment variable NO_COLOR does the same.", "--no-color"),
    "debug": _flag("Show the traceback of an error.", "--debug"),
}
"""The options of :func:`deployfold.cli.session.session`, by keyword."""

ALWAYS = ("no_color", "debug")
"""The options that every command has."""


def in_session(*flags: str) -> Callable[[Command], Command]:
    """Run a command's body in a session, which becomes its first argument.

    The command gets an option for each of ``flags`` and ``ALWAYS``, after its own options.

    Args:
        flags: keys of ``FLAGS`` that the command supports.
    """
    names = (*flags, *ALWAYS)

    def decorate(body: Command) -> Command:
        def command(**given: Any) -> None:
            with session(**{name: given.pop(name) for name in names}) as run:
                body(run, **given)

        own = list(inspect.signature(body, eval_str=True).parameters.values())[1:]
        shared = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=FLAGS[name]
            )
            for name in names
        ]
        command.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
        command.__doc__ = body.__doc__
        command.__name__ = body.__name__
        command.uncommon = getattr(body, "uncommon", ())  # type: ignore[attr-defined]
        return command  # type: ignore[return-value]

    return decorate
